"""Provable compression of neural networks: low-rank and robust factorizations, measured.

The four public functions load on first use, so that importing the package (as the Snakefile
does for its grid) costs no torch import.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["compress", "load", "low_rank", "save"]

_HOMES = {
    "low_rank": "lowrank_bench.compression.front",
    "compress": "lowrank_bench.compression.front",
    "save": "lowrank_bench.artifact",
    "load": "lowrank_bench.artifact",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
