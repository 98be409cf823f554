"""What a network and its compressed copy take on disk."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.layers.stored import stored_bytes
from lowrank_bench.problem import FLOAT_BYTES


def byte_facts(dense: nn.Module, compressed: nn.Module, layers: Sequence[str]) -> dict[str, Any]:
    """Return the bytes of some layers and of the whole network, before and after.

    Parameters
    ----------
    dense, compressed
        A network and the copy of it with these layers replaced.
    layers
        Dotted names.

    Returns
    -------
    dict
        `bytes_dense` with every number in float32, `bytes_checkpoint` in the types that the
        network has, and `bytes_kept`, as `save` writes them; `network_bytes_*` the same of the
        whole network. Tensors that are shared count once. None where a state holds more than
        dense tensors, such as torch's quantized modules.
    """
    before = [dense.get_submodule(name) for name in layers]
    after = [compressed.get_submodule(name) for name in layers]
    return {
        "bytes_dense": _total(before, FLOAT_BYTES),
        "bytes_checkpoint": _total(before),
        "bytes_kept": _total(after),
        "network_bytes_dense": _total([dense], FLOAT_BYTES),
        "network_bytes_checkpoint": _total([dense]),
        "network_bytes_kept": _total([compressed]),
    }


def _total(modules: Sequence[nn.Module], number: int | None = None) -> int | None:
    try:
        return sum(stored_bytes(module, number) for module in modules)
    # A state with more than dense tensors, which `save` refuses, or lazy ones without a shape.
    except (LowRankError, ValueError):
        return None
