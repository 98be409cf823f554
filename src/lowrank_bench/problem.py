"""The input of a matrix method: the matrix, and facts about its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lowrank_bench.errors import LowRankError

if TYPE_CHECKING:
    from torch import Tensor

FLOAT_BYTES = 4  # of a number in float32, in which tables and factors are counted
# What each fact is computed from, in the words of the results: the first three are facts about the
# rows of a matrix, the others calibration data for whole networks.
FACTS = {
    "frequency": "vocabulary order",
    "counts": "training text",
    "fisher": "training text and labels",
    "inputs": "training inputs",
    "labels": "training labels",
}
# The facts from which the use of each row is estimated, for each value of `weights`.
USE = {"vocabulary": ("frequency",), "counts": ("counts", "frequency"), "uniform": ()}
MENDS = {
    "frequency": "give frequency=, or the tokenizer",
    "counts": "give counts=, or texts with the tokenizer",
    "fisher": "give fisher=, the Fisher information of each row",
}


def require_bytes(name: str, budget: str, otherwise: str = "") -> None:
    """Check that the budget of what stores few bits is one of bytes.

    Parameters
    ----------
    name
        What it is, as the error names it.
    otherwise
        What else mends it, for the end of the error.

    Raises
    ------
    LowRankError
        For another budget.
    """
    if budget != "bytes":
        raise LowRankError(
            f"{name} saves bytes, not {budget}; give saved_bytes (budget: bytes) instead "
            f"of compression{otherwise}"
        )


@dataclass(frozen=True)
class Problem:
    """A matrix to approximate, and the facts about its rows that the method needs.

    Attributes
    ----------
    matrix
        Tensor A, n×d, float64, finite.
    rank
        The rank to decompose for, where the method is not nested; otherwise None.
    frequency
        Tensor n > 0: expected relative frequency of each row, from the vocabulary alone.
    counts
        Tensor n ≥ 0: number of uses of each row in the training text.
    fisher
        Tensor n ≥ 0: Fisher information of the task's loss, summed over each row.
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
            When it is absent, has another length, or is not finite and nonnegative.
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
        """Return `rank`, or raise a `LowRankError` where there is none."""
        if self.rank is None:
            raise LowRankError("the method needs a rank to decompose for; set Problem.rank")
        return self.rank


def used(needs: tuple[str, ...], target: str) -> tuple[str, ...]:
    """Return the facts that a method looks at: a target without a table has none about its rows."""
    return tuple(need for need in needs if target != "conv" or need not in ("frequency", "counts"))


def data_used(needs: tuple[str, ...]) -> str:
    """Return in words the data that a method with these needs uses."""
    return ", ".join(["weights", *(words for name, words in FACTS.items() if name in needs)])
