"""What `artifact.save` writes of a network: the types on disk, and the bytes."""

import torch
from torch import nn

from lowrank_bench.layers.code_store import CodeStore
from lowrank_bench.layers.coded import CodedEmbedding
from lowrank_bench.layers.rest import halved_types
from lowrank_bench.layers.sharing import sharing_of, state_of


def stored_types(model: nn.Module) -> dict[str, torch.dtype]:
    """Return the type on disk of parameters that have another one in memory, by full name."""
    coded = {
        f"{path}.{name}" if path else name: kind
        for path, layer in model.named_modules(remove_duplicate=False)
        if isinstance(layer, CodedEmbedding | CodeStore)
        for name, kind in layer.stored_types().items()
    }
    return coded | halved_types(model)


def stored_bytes(model: nn.Module, number: int | None = None) -> int:
    """Return the bytes of all tensors that `save` would write, shared ones once.

    Parameters
    ----------
    number
        Bytes of a real number; by default those of its type on disk.
    """
    state, types = state_of(model), stored_types(model)
    shared = sharing_of(state).shared
    sizes = {
        name: types.get(name, value.dtype).itemsize if number is None else number
        for name, value in state.items()
        if value.is_floating_point()
    }
    kept = (name for name in state if name not in shared)
    return sum(state[name].numel() * sizes.get(name, state[name].element_size()) for name in kept)
