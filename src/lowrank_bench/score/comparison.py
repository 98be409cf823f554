"""A metric of a cell with its bootstrap draws, next to the dense network's and the baseline's.

All quantities are linear in the samples, so the mean of comparisons over tasks or seeds is again a
comparison.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowrank_bench.score.bootstrap import interval
from lowrank_bench.score.paired_test import p_value

POINTS = 100.0


@dataclass(frozen=True, eq=False)
class Sample:
    """A value in [−1, 1] and its bootstrap draws, on resamples that all cells of a split share."""

    value: float
    draws: NDArray[np.float64]

    def __sub__(self, other: "Sample") -> "Sample":
        return Sample(self.value - other.value, self.draws - other.draws)

    def interval(self) -> tuple[float, float]:
        """Return the 95 % percentile interval in points."""
        return interval(POINTS * self.draws)


@dataclass(frozen=True, eq=False)
class Versus:
    """The baseline's sample, and draws of cell − baseline under the null hypothesis."""

    sample: Sample
    null: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Comparison:
    """A cell's sample, and the samples that it is compared with where they exist."""

    cell: Sample
    dense: Sample | None = None
    versus: Versus | None = None

    def drop(self) -> Sample | None:
        """Return dense − cell; None without a dense network."""
        return self.dense - self.cell if self.dense else None

    def columns(self) -> dict[str, float]:
        """Return the columns of `schema.SCORES` that hold numbers of this comparison, points."""
        low, high = self.cell.interval()
        numbers = {"value": POINTS * self.cell.value, "ci_low": low, "ci_high": high}
        drop = self.drop()
        if self.dense and drop:
            numbers |= {"dense_value": POINTS * self.dense.value, "drop": POINTS * drop.value}
            numbers["drop_ci_low"], numbers["drop_ci_high"] = drop.interval()
        if self.versus:
            gain = self.cell - self.versus.sample
            numbers["vs_svd"] = POINTS * gain.value
            numbers["vs_svd_ci_low"], numbers["vs_svd_ci_high"] = gain.interval()
            numbers["vs_svd_p"] = p_value(gain.value, self.versus.null)
        return numbers


@dataclass(frozen=True, eq=False)
class Row:
    """A row of the table of scores: the cell, split and metric, and their numbers if any.

    `meta` holds columns of `schema.SCORES`: those that describe the cell, and at least `split`,
    `metric`, `status`, `reason`, `note` and `n_examples`.
    """

    meta: dict[str, Any]
    comparison: Comparison | None = None


def mean(comparisons: Sequence[Comparison]) -> Comparison:
    """Return the unweighted mean.

    The dense network and the baseline take part only where every comparison has them, so that
    every difference is between means over the same tasks and seeds.
    """
    dense = [comparison.dense for comparison in comparisons if comparison.dense]
    versus = [comparison.versus for comparison in comparisons if comparison.versus]
    return Comparison(
        _mean([comparison.cell for comparison in comparisons]),
        _mean(dense) if len(dense) == len(comparisons) else None,
        _mean_versus(versus) if len(versus) == len(comparisons) else None,
    )


def _mean(samples: Sequence[Sample]) -> Sample:
    value = float(np.mean([sample.value for sample in samples]))
    return Sample(value, np.mean([sample.draws for sample in samples], axis=0))


def _mean_versus(parts: Sequence[Versus]) -> Versus:
    null = np.mean([part.null for part in parts], axis=0)
    return Versus(_mean([part.sample for part in parts]), null)
