"""Paired bootstrap of metrics: all cells of a split on the same resamples of its examples.

A resample draws n of the n examples with replacement (Efron and Tibshirani, An Introduction to the
Bootstrap, 1993). Because every cell sees the same resamples, the difference of two cells' draws is
a draw of their difference, in which the difficulty of the examples cancels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowrank_bench.score.draws import resample_blocks
from lowrank_bench.score.kernels import on_blocks, resampled

LEVEL = 95.0


def bootstrap(
    metrics: Sequence[str],
    predictions: NDArray[np.number[Any]],
    references: NDArray[np.number[Any]],
    n_labels: int,
    *,
    resamples: int,
    rng: np.random.Generator,
) -> dict[str, NDArray[np.float64]]:
    """Compute metrics of many cells on the same bootstrap resamples.

    Parameters
    ----------
    metrics, predictions, references, n_labels
        As in `kernels.resampled`.
    resamples
        Number of resamples.
    rng
        Source of the resamples; equal states give equal resamples.

    Returns
    -------
    dict
        From metric to its values on the resamples, cells×resamples, in [−1, 1]. Each equals the
        metric of the examples repeated as they were drawn.
    """
    return on_blocks(
        metrics,
        resample_blocks(references.size, resamples, rng),
        resamples,
        len(predictions),
        max(3, n_labels),
        lambda block, cells: resampled(metrics, block, predictions[cells], references, n_labels),
    )


def interval(draws: NDArray[np.float64]) -> tuple[float, float]:
    """Return the percentile interval that covers 95 % of bootstrap draws."""
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(draws, [tail, 100 - tail])
    return float(low), float(high)
