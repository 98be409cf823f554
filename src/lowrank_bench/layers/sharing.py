"""Which tensors of a network are one and the same, or views of the same memory."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from pydantic import BaseModel, NonNegativeInt
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lowrank_bench.errors import LowRankError

MOST_GAPS = 8  # memory of views that no view covers, as a multiple of their numbers


class View(BaseModel):
    """A tensor that overlaps another one in memory.

    Attributes
    ----------
    of
        Name of the tensor that begins first in the memory; its own for that one.
    offset, stride
        Where it begins after that one, and its steps, in numbers.
    """

    of: str
    offset: NonNegativeInt
    stride: tuple[NonNegativeInt, ...]


@dataclass
class Sharing:
    """Which tensors of a network share their numbers.

    Attributes
    ----------
    shared
        For the name of each tensor that equals another by being it, or by lying at the same place
        in memory, the name of that one.
    views
        The tensors that overlap others in memory without being them, by their first names.
    """

    shared: dict[str, str] = field(default_factory=dict)
    views: dict[str, View] = field(default_factory=dict)

    def first(self, name: str) -> str:
        """Return the first name of the tensor that has this name."""
        return name if name in self.views else self.shared.get(name, name)

    def partition(self, tensors: Mapping[str, Tensor]) -> set[frozenset[frozenset[str]]]:
        """Return the names of all tensors, by what is one tensor and what is one memory."""
        memories: dict[str, set[frozenset[str]]] = {}
        for first, names in self.names(tensors).items():
            base = self.views[first].of if first in self.views else first
            memories.setdefault(base, set()).add(frozenset(names))
        return {frozenset(memory) for memory in memories.values()}

    def names(self, tensors: Mapping[str, Tensor]) -> dict[str, list[str]]:
        """Return all names of each tensor, by its first one."""
        names: dict[str, list[str]] = {}
        for name in tensors:
            names.setdefault(self.first(name), []).append(name)
        return names


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, including buffers outside of the state dict.

    Raises
    ------
    LowRankError
        When the state holds something else, or a tensor that is sparse or quantized.
    """
    state = model.state_dict(keep_vars=True)
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise LowRankError(f"{name!r} is not a tensor and cannot be saved without pickle")
        if value.layout is not torch.strided or value.is_quantized:
            kind = "quantized" if value.is_quantized else f"{value.layout}".removeprefix("torch.")
            raise LowRankError(f"{name!r} is {kind}; make it dense before the network is saved")
    return {**dict(model.named_buffers(remove_duplicate=False)), **state}


def sharing_of(tensors: Mapping[str, Tensor]) -> Sharing:
    """Return which of some tensors share their numbers.

    Raises
    ------
    LowRankError
        When tensors of different types share memory, or it has large gaps.
    """
    sharing = Sharing()
    objects: dict[int, str] = {}
    for name, value in tensors.items():
        first = objects.setdefault(id(value), name)
        if first != name:
            sharing.shared[name] = first
    distinct = {name: tensors[name] for name in objects.values()}
    for group in _overlapping(distinct):
        _note_views(group, sharing)
    return sharing


def _overlapping(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, tuple[int, Tensor]]]:
    """Yield the tensors of each stretch of memory that several use, with where they begin."""
    spans = []
    for place, (name, value) in enumerate(tensors.items()):
        if value.numel():
            where, start = f"{value.device}", value.data_ptr()
            if value.device.type == "meta":  # which has no addresses
                where += f" {value.untyped_storage()._cdata}"
                start = int(value.storage_offset()) * value.element_size()
            end = start + extent(value.shape, value.stride()) * value.element_size()
            spans.append((where, start, place, end, name))
    group: dict[str, tuple[int, Tensor]] = {}
    last: tuple[str, int] = ("", 0)
    for where, start, _, end, name in sorted(spans):
        if where != last[0] or start >= last[1]:
            if len(group) > 1:
                yield group
            group, last = {}, (where, end)
        group[name] = start, tensors[name]
        last = where, max(end, last[1])
    if len(group) > 1:
        yield group


def overlapping(model: nn.Module) -> Iterator[list[tuple[nn.Module, str]]]:
    """Yield for each stretch of memory that several tensors of a network use who holds them.

    Yields
    ------
    list of (nn.Module, str)
        The module that holds a parameter or buffer, and the dotted name of the tensor. A module
        that has several names counts once; tensors without memory of their own are left out.
    """
    tensors: dict[str, Tensor] = {}
    owners: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        for local, value in {**module._parameters, **module._buffers}.items():
            if value is not None and _has_memory(value):
                full = f"{name}.{local}" if name else local
                tensors[full], owners[full] = value, module
    for group in _overlapping(tensors):
        yield [(owners[full], full) for full in sorted(group, key=list(tensors).index)]


def _has_memory(value: Tensor) -> bool:
    """Return whether a tensor's numbers lie at an address: not on meta, not in other tensors."""
    if is_lazy(value) or hasattr(value, "__tensor_flatten__"):
        return False
    if value.layout is not torch.strided or value.device.type == "meta":
        return False
    return value.data_ptr() != 0  # as that of memory which was set free


def extent(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Return how many numbers of memory a tensor stretches over, its gaps included."""
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))


def _note_views(group: Mapping[str, tuple[int, Tensor]], sharing: Sharing) -> None:
    base, (begin, first) = next(iter(group.items()))
    places: dict[tuple[int, tuple[int, ...], tuple[int, ...]], str] = {}
    for name, (start, value) in group.items():
        offset, rest = divmod(start - begin, value.element_size())
        if value.dtype != first.dtype or rest:
            raise LowRankError(
                f"{name!r} and {base!r} share memory as numbers of different types; give one of "
                "them a copy of its own"
            )
        sharing.views[name] = View(of=base, offset=offset, stride=value.stride())
        place = offset, tuple(value.shape), value.stride()
        if place in places:
            sharing.shared[name] = places[place]
        places.setdefault(place, name)
    check_gaps({name: value.shape for name, (_, value) in group.items()}, sharing.views)


def check_gaps(shapes: Mapping[str, tuple[int, ...]], views: Mapping[str, View]) -> int:
    """Return how many numbers of memory some views stretch over.

    Raises
    ------
    LowRankError
        When they do not fit their shapes, or most of it is not theirs.
    """
    numbers = sum(torch.Size(shape).numel() for shape in shapes.values())
    lengths = [0]
    for name, shape in shapes.items():
        if len(views[name].stride) != len(shape):
            raise LowRankError(f"{name!r} cannot be a view of {views[name].of!r}")
        lengths.append(views[name].offset + extent(shape, views[name].stride))
    if max(lengths) > MOST_GAPS * numbers:
        raise LowRankError(
            f"{next(iter(shapes))!r} shares memory with others that has large gaps; give each a "
            "copy of its own"
        )
    return max(lengths)
