"""Two-sided paired permutation test of two systems on the same examples.

Under the null hypothesis the two systems' predictions of an example are exchangeable. The test
swaps them at random, example by example, and counts how often the metrics differ at least as much
as observed (approximate randomisation: Noreen, Computer-Intensive Methods for Testing Hypotheses,
1989; Yeh, COLING 2000). The observed arrangement counts as one of the draws, so that
p = (1 + count) / (1 + draws) is valid at any number of draws (Phipson and Smyth, Stat. Appl. Genet.
Mol. Biol. 9, 2010).

For accuracy, swaps matter only where exactly one system is right, and the test is McNemar's exact
test up to the sampling of swaps. With several seeds, the swaps of an example are the same in all of
them: the example is the unit, as it is in the bootstrap. For a correlation, exchangeable also means
on the same scale: two systems that differ by a factor are told apart by more than their ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowrank_bench.errors import LowRankError
from lowrank_bench.score.draws import generator, swap_blocks
from lowrank_bench.score.kernels import on_blocks, swapped
from lowrank_bench.score.metrics import METRICS, check_metrics

# Differences that would be equal in exact arithmetic count as equal.
TOLERANCE = 1e-10


@dataclass(frozen=True)
class PairedTest:
    """Mean of metric of the first − metric of the second, and its two-sided p-value."""

    difference: float
    p_value: float


def paired_test(
    metric: str,
    pairs: Sequence[tuple[NDArray[np.number[Any]], NDArray[np.number[Any]]]],
    references: NDArray[np.number[Any]],
    n_labels: int,
    *,
    resamples: int = 999,
    seed: int = 0,
) -> PairedTest:
    """Test whether two systems differ in a metric, averaged over pairs of predictions.

    Parameters
    ----------
    metric
        Name among `metrics.METRICS`.
    pairs
        Predictions (labels or finite scores, n each) of the two systems, one pair for each seed.
    references
        Labels or finite scores, n.
    n_labels
        Number of labels of the task; 0 for a regression.
    resamples
        Number of random swaps B; the smallest p-value is 1/(1 + B).
    seed
        Seed of the swaps.

    Raises
    ------
    LowRankError
        If the metric does not fit the task, or without a pair.
    """
    agreement = metric in METRICS and METRICS[metric].kind == "agreement"
    check_metrics([metric], n_labels, vectors=2 * agreement)
    if not pairs:
        raise LowRankError("a paired test needs at least one pair of predictions")
    first, second = (np.stack([pair[side] for pair in pairs]) for side in (0, 1))
    none = np.zeros((1, references.size), np.float32)
    observed = swapped([metric], none, first, second, references, n_labels)[metric].mean()
    draws = permute(
        [metric], first, second, references, n_labels, resamples=resamples, rng=generator(seed)
    )
    return PairedTest(float(observed), p_value(observed, draws[metric].mean(axis=0)))


def permute(
    metrics: Sequence[str],
    first: NDArray[np.number[Any]],
    second: NDArray[np.number[Any]],
    references: NDArray[np.number[Any]],
    n_labels: int,
    *,
    resamples: int,
    rng: np.random.Generator,
) -> dict[str, NDArray[np.float64]]:
    """Draw differences of two systems' metrics under the null hypothesis, for many pairs.

    Parameters
    ----------
    metrics, first, second, references, n_labels
        As in `kernels.swapped`.
    resamples, rng
        Number and source of the swaps, the same for all pairs.

    Returns
    -------
    dict
        From metric to differences, pairs×resamples. The draws of pairs, splits and tasks may be
        averaged: the average is a draw of the averaged difference.
    """
    return on_blocks(
        metrics,
        swap_blocks(references.size, resamples, rng),
        resamples,
        len(first),
        2 * max(3, n_labels),
        lambda block, pairs: swapped(
            metrics, block, first[pairs], second[pairs], references, n_labels
        ),
    )


def p_value(observed: float, draws: NDArray[np.float64]) -> float:
    """Return the two-sided p-value of an observed difference against its null draws."""
    return float((1 + np.count_nonzero(abs(draws) >= abs(observed) - TOLERANCE)) / (1 + draws.size))
