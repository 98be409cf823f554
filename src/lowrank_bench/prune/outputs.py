"""The tensors in what a network returns, whatever holds them."""

from collections.abc import Iterator, Mapping, Set
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from lowrank_bench.errors import LowRankError

# What holds no tensors; a class, such as the type of an output, is not looked into either.
PLAIN = (type(None), bool, int, float, complex, str, bytes, range, type, Enum)
PLAIN_OF_TORCH = (torch.dtype, torch.device, torch.layout, torch.memory_format)


def output_tensors(output: Any) -> list[Tensor]:
    """Return the tensors in the output of a network, in order, each once.

    They are looked for in lists, tuples, sets, mappings, dataclasses and the attributes of any
    other object, at every depth.

    Raises
    ------
    LowRankError
        When something in it may hold numbers that cannot be seen: a function, an iterator, an
        array of another library.
    """
    tensors: list[Tensor] = []
    seen: dict[int, Any] = {}  # objects may hold themselves; holding them keeps their ids unique
    waiting = [output]
    while waiting:
        value = waiting.pop()
        if isinstance(value, (*PLAIN, *PLAIN_OF_TORCH)) or id(value) in seen:
            continue
        seen[id(value)] = value
        if isinstance(value, Tensor):
            tensors.append(value)
        else:
            waiting += reversed(list(_parts(value, output)))
    return tensors


def _parts(value: Any, output: Any) -> Iterator[Any]:
    """Yield what an object holds."""
    holds = isinstance(value, Mapping | list | tuple | Set)
    names = _attributes(value)
    if callable(value) or hasattr(value, "__next__") or not (holds or names is not None):
        within = "" if value is output else f"a {type(output).__name__} with "
        raise LowRankError(
            f"the network returns {within}a {type(value).__name__}, in which tensors cannot be "
            "seen, so that its outputs could be pruned; let it return tensors, alone or in lists, "
            "mappings or dataclasses"
        )
    if isinstance(value, Mapping):
        yield from value.values()
    elif holds:
        yield from value
    for name in names or ():
        yield getattr(value, name, None)


def _attributes(value: Any) -> list[str] | None:
    """Return the names of an object's own attributes; None if it cannot have any."""
    slots = [
        name
        for kind in type(value).__mro__
        for name in _listed(vars(kind).get("__slots__", ()))
        if not name.startswith("__")
    ]
    has_slots = any("__slots__" in vars(kind) for kind in type(value).__mro__)
    if hasattr(value, "__dict__"):
        return [*slots, *vars(value)]
    return slots if has_slots else None


def _listed(names: Any) -> list[str]:
    return [names] if isinstance(names, str) else list(names)
