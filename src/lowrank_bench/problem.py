"""What a method is given: the matrix, and what else is known of its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lowrank_bench.errors import LowRankError

if TYPE_CHECKING:
    from torch import Tensor

# What each fact beside the weights rests on, as results say it: facts about the rows of a
# matrix, and calibration data for whole networks.
FACTS = {
    "frequency": "vocabulary order",
    "counts": "training text",
    "fisher": "training text and labels",
    "inputs": "training inputs",
    "labels": "training labels",
}
# Which facts the weights of rows by their use rest on, by the name of where they come from.
USE = {"vocabulary": ("frequency",), "counts": ("counts", "frequency"), "uniform": ()}
MENDS = {
    "frequency": "give frequency=, or the tokenizer",
    "counts": "give counts=, or texts with the tokenizer",
    "fisher": "give fisher=, the Fisher information of each row",
}


@dataclass(frozen=True)
class Problem:
    """A matrix to approximate, with the facts about its rows that the method needs.

    Attributes
    ----------
    matrix
        Tensor A, n×d, float64, finite.
    rank
        The one rank wanted, for methods whose decomposition does not serve all of them.
    frequency
        Tensor n > 0: expected relative use of each row, known from the vocabulary alone.
    counts
        Tensor n ≥ 0: how often the training text uses each row.
    fisher
        Tensor n ≥ 0: Fisher information of the task's loss about each row, summed over columns.
    """

    matrix: Tensor
    rank: int | None = None
    frequency: Tensor | None = None
    counts: Tensor | None = None
    fisher: Tensor | None = None

    def fact(self, name: str) -> Tensor:
        """Return a fact about the rows, float64 n.

        Raises
        ------
        LowRankError
            When it was not given, has another length, or is not finite and nonnegative.
        """
        value: Tensor | None = getattr(self, name)
        if value is None:
            raise LowRankError(f"the method needs the {FACTS[name]}; {MENDS[name]}")
        if value.shape != self.matrix.shape[:1]:
            shape = "x".join(str(size) for size in value.shape) or "one number"
            raise LowRankError(
                f"{name} has {shape} values for {len(self.matrix)} rows; give one for each row"
            )
        value = value.to(self.matrix)
        if not (value.isfinite() & (value >= 0)).all():
            raise LowRankError(f"{name} holds a negative or infinite value; it must be >= 0")
        return value

    @property
    def wanted_rank(self) -> int:
        """Return `rank`, for methods that need it."""
        if self.rank is None:
            raise LowRankError("the method decomposes for one rank; the problem names none")
        return self.rank


def data_used(needs: tuple[str, ...]) -> str:
    """Return in words what a method that needs these facts looks at."""
    return ", ".join(["weights", *(words for name, words in FACTS.items() if name in needs)])
