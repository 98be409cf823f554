"""Rank and bits together: for each precision the largest rank that fits, and the best of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.coding.coded import finite_unit, relative_error
from lowrank_bench.linalg.coding.precision import Precision
from lowrank_bench.linalg.coding.quantized import QuantizedFactors, most_bytes, quantize
from lowrank_bench.linalg.factors import Approximation, ClusteredFactors, Factors, scaled

FULL = 0.99  # share of the budget at which a search that decomposes anew ends
TRIES = 6  # decompositions of such a search
KEPT = 2  # approximations that are kept at a time


class Ladder:
    """The approximations of a matrix by a method, made when they are asked for.

    Parameters
    ----------
    make
        Returns the approximation of a rank; raises a `LowRankError` where there is none.
    most
        The largest rank to ask for.
    nested
        Whether another rank costs no other decomposition.
    numbers
        How many numbers one more rank stores, about.
    """

    def __init__(
        self, make: Callable[[int], Approximation], most: int, nested: bool, numbers: int
    ) -> None:
        self.most, self.nested, self.numbers = most, nested, numbers
        self._make = make
        self._made: dict[int, Approximation] = {}

    def at(self, rank: int) -> Approximation:
        """Return the approximation of a rank; the last ones are kept."""
        if rank not in self._made:
            fresh = self._make(rank)
            for old in list(self._made)[: len(self._made) - KEPT + 1]:
                del self._made[old]
            self._made[rank] = fresh
        return self._made[rank]

    def start(self, precision: Precision, budget: int) -> int:
        """Return a rank to begin with: a cheap one, or about what fits."""
        if self.nested:
            return 1
        if self._made:
            made = next(reversed(self._made))
            if isinstance(self._made[made], ClusteredFactors | Factors):
                return made  # which tells the bytes of every rank
        return max(1, min(self.most, budget * 8 // (precision.bits * self.numbers)))


@dataclass(frozen=True)
class Fit:
    """The largest rank that fits a budget, with its approximation."""

    rank: int
    factors: Approximation


def largest_fit(ladder: Ladder, precision: Precision, budget: int) -> Fit:
    """Return the largest rank whose approximation fits into `budget` bytes in a precision.

    One approximation of a projection, or of clusters, tells the bytes of every rank. Blocks and
    sparse rows do not: up to `TRIES` of them are made, until one fills 99 % of the budget.

    Raises
    ------
    LowRankError
        When not even rank 1 fits, or the method refuses.
    """
    rank = ladder.start(precision, budget)
    factors = _asked(ladder, rank, precision, budget)
    if isinstance(factors, Factors | ClusteredFactors):
        return _known_fit(ladder, factors, precision, budget)
    return _searched_fit(ladder, rank, precision, budget)


def _known_fit(ladder: Ladder, known: Approximation, precision: Precision, budget: int) -> Fit:
    """Return the largest rank that fits, from an approximation of any rank."""
    most = ladder.most
    if isinstance(known, ClusteredFactors):  # no cluster has more directions than rows
        most = min(most, max(known.rank, len(known.left) // len(known.right)))
    low, high = 0, most  # `low` fits
    while low < high:
        middle = (low + high + 1) // 2
        fits = most_bytes(known, precision, middle) <= budget
        low, high = (middle, high) if fits else (low, middle - 1)
    if low == 0:
        raise _too_large(precision, most_bytes(known, precision, 1), budget)
    try:
        return Fit(low, ladder.at(low))
    except LowRankError:
        if not ladder.nested:
            raise
    return _largest_of(ladder, low - 1)


def _largest_of(ladder: Ladder, most: int) -> Fit:
    """Return the largest rank, at most `most`, that a nested decomposition has."""
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        try:
            ladder.at(middle)
        except LowRankError:
            high = middle - 1
        else:
            low = middle
    return Fit(low, ladder.at(low))


def _searched_fit(ladder: Ladder, rank: int, precision: Precision, budget: int) -> Fit:
    """Return about the largest rank that fits, by interpolation."""
    best, low, high = None, 0, ladder.most + 1  # `low` fits, `high` does not
    for _ in range(TRIES):
        factors = _asked(ladder, rank, precision, budget)
        size = most_bytes(factors, precision)
        if size <= budget:
            best, low = Fit(rank, factors), rank
            if size >= FULL * budget:
                break
        else:
            high = rank
        if high - low <= 1:
            break
        rank = max(low + 1, min(high - 1, rank * budget // size))
    if best is None:
        raise _too_large(precision, size, budget)
    return best


def _asked(ladder: Ladder, rank: int, precision: Precision, budget: int) -> Approximation:
    try:
        return ladder.at(rank)
    except LowRankError as error:
        raise LowRankError(f"{precision} in {budget:,} bytes: {error}") from None


def _too_large(precision: Precision, least: int, budget: int) -> LowRankError:
    return LowRankError(
        f"{precision} takes at least {least:,} bytes, and the budget has {budget:,}; save less, "
        "or take fewer bits"
    )


def best_code(
    matrix: Tensor,
    ladder: Ladder,
    precisions: Sequence[Precision],
    budget: int,
    weights: Tensor | None = None,
) -> tuple[QuantizedFactors, dict[str, Any]]:
    """Return the code of least measured error among precisions, and facts about all of them.

    Parameters
    ----------
    matrix
        Tensor A, n×d, finite.
    ladder
        Its approximations.
    precisions
        Those to try.
    budget
        Bytes that the code may take.
    weights
        Tensor n ≥ 0 of the rows in the error √(Σ w_i ‖a_i − b_i‖² / Σ w_i ‖a_i‖²); None: alike.

    Returns
    -------
    code, info
        `info` says `bits`, `group`, `rank`, `n_bytes` and `weighted_error` of the code, and lists
        the same of all `candidates`, or the `reason` why one does not fit.

    Raises
    ------
    LowRankError
        When no precision fits.
    """
    unit = finite_unit(matrix)
    best: QuantizedFactors | None = None
    chosen: dict[str, Any] = {}
    candidates: list[dict[str, Any]] = []
    for precision in precisions:
        facts: dict[str, Any] = precision.facts()
        candidates.append(facts)
        try:
            fit = largest_fit(ladder, precision, budget)
        except LowRankError as refusal:
            facts["reason"] = str(refusal)
            continue
        code = quantize(scaled(fit.factors, 1 / unit), precision, unit)
        error = relative_error(matrix, code, weights)
        facts |= {"rank": fit.rank, "n_bytes": code.n_bytes, "weighted_error": error}
        if best is None or error < chosen["weighted_error"]:
            best, chosen = code, facts
    if best is None:
        raise LowRankError(candidates[0]["reason"])  # of the fewest bits, which need the least
    return best, {**chosen, "candidates": candidates}
