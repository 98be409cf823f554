"""A cache of large intermediate results, limited in bytes."""

import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import RLock
from typing import TypeVar

from torch import Tensor

Value = TypeVar("Value")


class Recent:
    """A cache of values that belong to objects; drops the least recently used ones first.

    A value is also dropped when its owner is deleted. A dropped value is made again on demand.

    Parameters
    ----------
    room
        Most bytes of tensors to keep. The value requested last is kept even if it is larger.
    """

    def __init__(self, room: int) -> None:
        self.room, self.used = room, 0
        self._values: OrderedDict[tuple[int, Hashable], tuple[object, int]] = OrderedDict()
        self._owners: set[int] = set()
        self._lock = RLock()  # a finalizer may run inside

    def get(self, owner: object, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value of an object under a key, made if it is not in the cache."""
        place = (id(owner), key)
        with self._lock:
            if place in self._values:
                self._values.move_to_end(place)
                return self._values[place][0]  # type: ignore[return-value]
        value = make()
        with self._lock:
            self._put(owner, place, value, bytes_in(value))
        return value

    def _put(self, owner: object, place: tuple[int, Hashable], value: object, size: int) -> None:
        if id(owner) not in self._owners:
            weakref.finalize(owner, self._forget, id(owner)).atexit = False
            self._owners.add(id(owner))
        self._drop(place)  # another thread may have made it in the meantime
        while self._values and self.used + size > self.room:
            self._drop(next(iter(self._values)))
        self._values[place] = (value, size)
        self.used += size

    def _drop(self, place: tuple[int, Hashable]) -> None:
        _, size = self._values.pop(place, (None, 0))
        self.used -= size

    def _forget(self, owner: int) -> None:
        with self._lock:
            self._owners.discard(owner)
            for place in [place for place in self._values if place[0] == owner]:
                self._drop(place)


def bytes_in(value: object) -> int:
    """Return the bytes of a tensor, or of the tensors in an object's attributes and their lists."""
    parts = [value] if isinstance(value, Tensor) else [*vars(value).values()]
    inside = [one for part in parts if isinstance(part, list) for one in part]
    tensors = [part for part in [*parts, *inside] if isinstance(part, Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
