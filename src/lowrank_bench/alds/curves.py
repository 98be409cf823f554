"""The error of one cut of a layer by rank, known within bounds until it is computed."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Learned = Floats | float | tuple[float, Floats]
Refine = Callable[[int], Learned]


class Curve:
    """Errors that fall with the rank, computed only where a query needs them.

    Parameters
    ----------
    low, high
        float64 m: bounds of the m errors, both falling. Where they are equal, the error is known.
    refine
        Called with an index. Returns the error there; or that error and lower bounds of all m
        errors, equal to the error there; or all m errors.
    """

    def __init__(self, low: Floats, high: Floats, refine: Refine | None = None) -> None:
        self.low = np.minimum(np.minimum.accumulate(low), high)
        self.high = np.minimum.accumulate(high)
        self.refine = refine
        self.tight = False  # whether `refine` has returned lower bounds

    @classmethod
    def known(cls, errors: Floats) -> "Curve":
        """Return a curve whose errors are all known."""
        return cls(errors, errors.copy())

    def __len__(self) -> int:
        return len(self.low)

    def at(self, index: int) -> float:
        """Return one error."""
        if self.low[index] < self.high[index]:
            assert self.refine is not None
            self._learn(index, self.refine(index))
        return float(self.high[index])

    def all(self) -> Floats:
        """Return all errors."""
        for index in range(len(self)):
            self.at(index)
        return self.high

    def first(self, level: float) -> int:
        """Return the first index whose error is at most `level`; m if there is none.

        Bisects the open interval. Once `refine` returns lower bounds, every second query is where
        the lower bound crosses the level, which is then likely to be the answer.
        """
        halve = not self.tight
        while True:
            least, most = self.optimistic(level), _first(self.high, level)
            if least == most:
                return least
            self.at((least + most) // 2 if halve else least)
            halve = not (halve and self.tight)

    def optimistic(self, level: float) -> int:
        """Return the first index whose error may be at most `level`, by the lower bounds."""
        return _first(self.low, level)

    def _learn(self, index: int, learned: Learned) -> None:
        if isinstance(learned, np.ndarray):
            self.high = np.minimum.accumulate(learned)
            self.low = self.high
            return
        if isinstance(learned, tuple):
            learned, touching = learned
            self.low = np.minimum(np.maximum(self.low, touching), self.high)
            self.tight = True
        # Rounding may put the error just outside its bounds, which must stay in order.
        value = min(max(learned, self.low[index]), self.high[index])
        # Errors fall with the index: it bounds earlier ones from below, later ones from above.
        self.low[: index + 1] = np.maximum(self.low[: index + 1], value)
        self.high[index:] = np.minimum(self.high[index:], value)
        self.low = np.minimum(self.low, self.high)


def _first(falling: Floats, level: float) -> int:
    return int(np.searchsorted(-falling, -level))
