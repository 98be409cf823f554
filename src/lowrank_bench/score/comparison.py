"""A metric of a cell with its bootstrap draws, beside the dense network's and the baseline's.

Everything here is linear, so the mean over tasks or seeds of such comparisons is one again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lowrank_bench.score.bootstrap import interval
from lowrank_bench.score.paired_test import p_value

POINTS = 100.0


@dataclass(frozen=True, eq=False)
class Sample:
    """A value in [−1, 1] and its bootstrap draws, on the resamples that its peers share."""

    value: float
    draws: np.ndarray

    def __sub__(self, other: "Sample") -> "Sample":
        return Sample(self.value - other.value, self.draws - other.draws)

    def interval(self) -> tuple[float, float]:
        """Return the 95 % percentile interval in points."""
        return interval(POINTS * self.draws)


@dataclass(frozen=True, eq=False)
class Versus:
    """The baseline's sample, and draws of cell − baseline under the null hypothesis."""

    sample: Sample
    null: np.ndarray


@dataclass(frozen=True, eq=False)
class Comparison:
    """A cell's sample, and what it is compared with where that exists."""

    own: Sample
    dense: Sample | None = None
    versus: Versus | None = None

    def drop(self) -> Sample | None:
        """Return dense − own."""
        return self.dense - self.own if self.dense else None

    def columns(self) -> dict[str, float]:
        """Return the columns of `schema.SCORES` that hold numbers of this comparison, points."""
        low, high = self.own.interval()
        found = {"value": POINTS * self.own.value, "ci_low": low, "ci_high": high}
        drop = self.drop()
        if self.dense and drop:
            found |= {"dense_value": POINTS * self.dense.value, "drop": POINTS * drop.value}
            found["drop_ci_low"], found["drop_ci_high"] = drop.interval()
        if self.versus:
            gain = self.own - self.versus.sample
            found["vs_svd"] = POINTS * gain.value
            found["vs_svd_ci_low"], found["vs_svd_ci_high"] = gain.interval()
            found["vs_svd_p"] = p_value(gain.value, self.versus.null)
        return found


@dataclass(frozen=True, eq=False)
class Row:
    """A row of the table of scores: what it is about, and its numbers if it has any.

    `meta` holds columns of `schema.SCORES`: the cell's own, and at least `split`, `metric`,
    `status`, `reason`, `note` and `n_examples`.
    """

    meta: dict[str, Any]
    comparison: Comparison | None = None


def mean(comparisons: Sequence[Comparison]) -> Comparison:
    """Return the unweighted mean.

    The dense network and the baseline are part of it only where every comparison has them, so
    that differences are always between means over the same things.
    """
    dense = [comparison.dense for comparison in comparisons]
    versus = [comparison.versus for comparison in comparisons]
    return Comparison(
        _mean([comparison.own for comparison in comparisons]),
        _mean(dense) if all(dense) else None,
        _mean_versus(versus) if all(versus) else None,
    )


def _mean(samples: Sequence[Sample]) -> Sample:
    value = float(np.mean([sample.value for sample in samples]))
    return Sample(value, np.mean([sample.draws for sample in samples], axis=0))


def _mean_versus(parts: Sequence[Versus]) -> Versus:
    null = np.mean([part.null for part in parts], axis=0)
    return Versus(_mean([part.sample for part in parts]), null)
