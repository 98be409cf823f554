"""Provable compression of neural networks: low-rank and robust factorizations, measured.

The public functions are loaded when they are first used, so that importing the package, as the
Snakefile does, imports no torch.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lowrank_bench.artifact import load, save
    from lowrank_bench.compression.embedding import compress_embedding
    from lowrank_bench.compression.front import compress
    from lowrank_bench.compression.matrix import low_rank
    from lowrank_bench.compression.networks import compress_network
    from lowrank_bench.compression.report import CompressionReport
    from lowrank_bench.errors import LowRankError
else:
    from importlib import import_module

    _MODULES = {
        "CompressionReport": "compression.report",
        "LowRankError": "errors",
        "compress": "compression.front",
        "compress_embedding": "compression.embedding",
        "compress_network": "compression.networks",
        "load": "artifact",
        "low_rank": "compression.matrix",
        "save": "artifact",
    }

    def __getattr__(name):
        if name in _MODULES:
            return getattr(import_module(f"lowrank_bench.{_MODULES[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return sorted([*globals(), *_MODULES])


__version__ = "0.1.0"
__all__ = [
    "CompressionReport",
    "LowRankError",
    "compress",
    "compress_embedding",
    "compress_network",
    "load",
    "low_rank",
    "save",
]
