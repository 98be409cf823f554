"""Labels of channels: each entry of a tensor has one, and labels that must agree are united."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FIXED = 0  # the label of channels that cannot be pruned


class Labels:
    """The labels of all tensors of a forward, and which of them were united.

    Labels are whole numbers. United labels form a tree (union-find), whose root is the smallest.
    """

    def __init__(self) -> None:
        self._parent = [FIXED]
        # The tensors are kept with their labels: a freed tensor's id could be used again.
        self._known: dict[int, tuple[Tensor, Tensor]] = {}

    def new(self, count: int) -> NDArray[np.int64]:
        """Return labels that were not used before."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return np.arange(first, first + count)

    def find(self, labels: NDArray[np.int64] | Tensor) -> NDArray[np.int64]:
        """Return for each of `labels`, flattened, the one that stands for all united with it."""
        flat = np.asarray(labels).reshape(-1)
        distinct, back = np.unique(flat, return_inverse=True)
        return np.array([self._root(int(label)) for label in distinct], dtype=np.int64)[back]

    def unite(self, one: Tensor, other: Tensor) -> None:
        """Unite the labels that two tensors of labels, broadcast, have at the same place."""
        if one is other:
            return
        parts = torch.broadcast_tensors(one, other)
        pairs = torch.stack([part.reshape(-1) for part in parts])
        for a, b in torch.unique(pairs, dim=1).T.tolist():
            low, high = sorted((self._root(a), self._root(b)))
            self._parent[high] = low

    def fix(self, labels: Tensor) -> None:
        """Mark the channels of these labels as ones that cannot be pruned."""
        self.unite(labels, fixed_label())

    def are_fixed(self, value: Tensor) -> bool:
        """Return whether no entry of a tensor belongs to a channel that can be pruned."""
        return bool((self.find(self._distinct(value)) == FIXED).all())

    def give(self, value: Tensor, labels: Tensor) -> None:
        """Label a tensor with labels that broadcast to its shape."""
        self._known[id(value)] = value, labels.expand(value.shape)

    def give_fixed(self, value: Tensor) -> None:
        """Label all entries of a tensor as fixed."""
        self.give(value, fixed_label())

    def has(self, value: Tensor) -> bool:
        """Return whether a tensor was labelled."""
        return id(value) in self._known

    def of(self, value: Tensor) -> Tensor:
        """Return the labels of a tensor, of its shape; those of a constant are fixed."""
        if self.has(value):
            return self._known[id(value)][1]
        return fixed_label().expand(value.shape)

    def in_place_of(self, value: Any) -> Any:
        """Return the arguments of a function with labels in the places of their tensors."""
        if isinstance(value, Tensor):
            return self.of(value)
        if isinstance(value, list | tuple):
            return type(value)(self.in_place_of(part) for part in value)
        return value

    def along(self, value: Tensor, dim: int) -> NDArray[np.int64] | None:
        """Return the label of each channel along a dimension; None if a channel has several."""
        labels = self.of(value).movedim(dim, 0).flatten(1)
        if (labels != labels[:, :1]).any():
            return None
        channels: NDArray[np.int64] = labels[:, 0].numpy().copy()
        return channels

    def _root(self, label: int) -> int:
        # Path halving: each label on the way points to its grandparent from now on.
        while self._parent[label] != label:
            self._parent[label] = label = self._parent[self._parent[label]]
        return label

    def _distinct(self, value: Tensor) -> Tensor:
        """Return the labels of a tensor without the repetitions of broadcast dimensions."""
        labels = self.of(value)
        for dim, stride in enumerate(labels.stride()):
            if stride == 0 and labels.shape[dim] > 1:
                labels = labels.narrow(dim, 0, 1)
        return labels


def fixed_label() -> Tensor:
    """Return the label `FIXED` as an int64 tensor without dimensions."""
    return torch.zeros((), dtype=torch.int64)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested lists, tuples and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors_in(part)
