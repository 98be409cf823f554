"""Large intermediate results, kept while there is room for them."""

import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import RLock
from typing import TypeVar

from torch import Tensor

Value = TypeVar("Value")


class Recent:
    """Values that belong to objects; those unused for longest are dropped to make room.

    A value goes with its owner too. Whoever asks for it again has it made again.

    Parameters
    ----------
    room
        Bytes of tensors that are kept at most, but for the value that was asked for last.
    """

    def __init__(self, room: int) -> None:
        self.room, self.used = room, 0
        self._values: OrderedDict[tuple[int, Hashable], tuple[object, int]] = OrderedDict()
        self._owners: set[int] = set()
        self._lock = RLock()  # a finalizer may run inside

    def get(self, owner: object, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value that an object has under a key, made if it is not there."""
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
        self._drop(place)  # another may have made it meanwhile
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
    """Return the bytes of a tensor, or of those that an object has as attributes or in lists."""
    parts = [value] if isinstance(value, Tensor) else [*vars(value).values()]
    inside = [one for part in parts if isinstance(part, list) for one in part]
    tensors = [part for part in [*parts, *inside] if isinstance(part, Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
