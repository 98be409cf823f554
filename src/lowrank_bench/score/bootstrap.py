"""Paired bootstrap of metrics: all cells of a split on the same resamples of its examples.

A resample draws n of the n examples with replacement (Efron and Tibshirani, An Introduction to the
Bootstrap, 1993). Because every cell sees the same resamples, the difference of two cells' draws is
a draw of their difference, in which the difficulty of the examples cancels.
"""

from collections.abc import Sequence

import numpy as np

from lowrank_bench.score import counts, pearson, spearman
from lowrank_bench.score.draws import chunks, resample_blocks
from lowrank_bench.score.metrics import METRICS

LEVEL = 95.0


def bootstrap(
    metrics: Sequence[str],
    predictions: np.ndarray,
    references: np.ndarray,
    n_labels: int,
    *,
    resamples: int,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Compute metrics of many cells on the same bootstrap resamples.

    Parameters
    ----------
    metrics
        Names among `metrics.METRICS`, all of the task's kind.
    predictions
        Labels or finite scores, cells×n.
    references
        Labels or finite scores, n.
    n_labels
        Number of labels of the task; 0 for a regression.
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
    n, start = references.size, 0
    out = {name: np.empty((len(predictions), resamples)) for name in metrics}
    for block in resample_blocks(n, resamples, rng):
        rows = slice(start, start + len(block))
        start = rows.stop
        for cells in chunks(len(predictions), (n + len(block)) * max(3, n_labels)):
            values = _resampled(metrics, block, predictions[cells], references, n_labels)
            for name, value in values.items():
                out[name][cells, rows] = value
    return out


def _resampled(
    metrics: Sequence[str],
    block: np.ndarray,
    predictions: np.ndarray,
    references: np.ndarray,
    n_labels: int,
) -> dict[str, np.ndarray]:
    counted = [name for name in metrics if METRICS[name].kind == "classification"]
    values = {}
    if counted:
        values |= counts.resampled(counted, block, predictions, references, n_labels)
    if "pearson" in metrics:
        values["pearson"] = pearson.resampled(block, predictions, references)
    if "spearmanr" in metrics:
        values["spearmanr"] = spearman.resampled(block, predictions, references)
    return values


def interval(draws: np.ndarray) -> tuple[float, float]:
    """Return the percentile interval of bootstrap draws that covers 95 % of them."""
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(draws, [tail, 100 - tail])
    return float(low), float(high)
