"""The error of one way to cut a layer as its rank grows, known between bounds until it is asked."""

from collections.abc import Callable

import numpy as np

Refine = Callable[[int], np.ndarray | float | tuple[float, np.ndarray]]


class Curve:
    """Errors that fall with the rank, computed where a question needs them.

    Parameters
    ----------
    low, high
        float64 m: bounds of the m errors, both falling. Equal entries are known errors.
    refine
        Called with an index: returns the error there, or with it lower bounds of all m that touch
        it there, or all m errors.
    """

    def __init__(self, low: np.ndarray, high: np.ndarray, refine: Refine | None = None) -> None:
        self.low = np.minimum(np.minimum.accumulate(low), high)
        self.high = np.minimum.accumulate(high)
        self.refine = refine
        self.tight = False  # whether a bound has touched an error

    @classmethod
    def known(cls, errors: np.ndarray) -> "Curve":
        """Return the curve of errors that are all known."""
        return cls(errors, errors.copy())

    def __len__(self) -> int:
        return len(self.low)

    def at(self, index: int) -> float:
        """Return one error."""
        if self.low[index] < self.high[index]:
            assert self.refine is not None
            self._learn(index, self.refine(index))
        return float(self.high[index])

    def all(self) -> np.ndarray:
        """Return all errors."""
        for index in range(len(self)):
            self.at(index)
        return self.high

    def first(self, level: float) -> int:
        """Return the first index whose error is at most `level`; m where there is none.

        Halves what is open; once bounds touch, every second question is where they cross the level.
        """
        halve = not self.tight
        while True:
            least, most = self.optimistic(level), _first(self.high, level)
            if least == most:
                return least
            self.at((least + most) // 2 if halve else least)
            halve = not (halve and self.tight)

    def optimistic(self, level: float) -> int:
        """Return the first index whose error may be at most `level`, for all that is known."""
        return _first(self.low, level)

    def _learn(self, index: int, found: np.ndarray | float) -> None:
        if isinstance(found, np.ndarray):
            self.high = np.minimum.accumulate(found)
            self.low = self.high
            return
        if isinstance(found, tuple):
            found, touching = found
            self.low = np.minimum(np.maximum(self.low, touching), self.high)
            self.tight = True
        # Rounding may put it a hair outside of its bounds, which must stay in order.
        value = min(max(found, self.low[index]), self.high[index])
        self.low[: index + 1] = np.maximum(self.low[: index + 1], value)
        self.high[index:] = np.minimum(self.high[index:], value)
        self.low = np.minimum(self.low, self.high)


def _first(falling: np.ndarray, level: float) -> int:
    return int(np.searchsorted(-falling, -level))
