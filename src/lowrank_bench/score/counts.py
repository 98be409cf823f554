"""Accuracy, F1 and Matthews correlation of many cells at once, from weighted counts.

Each is a function of how many examples are predicted right, predicted as label k and labelled k.
These counts are sums over examples, so one matrix product gives them for all cells and all
resamples; they are integers below 2^24 and therefore exact in float32.
"""

from collections.abc import Sequence

import numpy as np


def resampled(
    metrics: Sequence[str],
    block: np.ndarray,
    predictions: np.ndarray,
    references: np.ndarray,
    n_labels: int,
) -> dict[str, np.ndarray]:
    """Return the metrics of every cell on every resample.

    Parameters
    ----------
    metrics
        Among `accuracy`, `f1` (two labels) and `matthews_correlation`.
    block
        Counts of each example in each resample, rows×n.
    predictions
        Labels, cells×n.
    references
        Labels, n.
    n_labels
        Number of labels of the task.

    Returns
    -------
    dict
        From metric to values, cells×rows, float64, in [−1, 1].
    """
    columns = _columns(metrics, n_labels)
    sums = _product(block, _features(predictions, references, columns))
    true = _product(block, _is_label(references[None], columns))
    return {name: METRICS[name](sums, true, references.size) for name in metrics}


def swapped(
    metrics: Sequence[str],
    block: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    references: np.ndarray,
    n_labels: int,
) -> dict[str, np.ndarray]:
    """Return metric of `first` − metric of `second` after every swap.

    Parameters
    ----------
    metrics, references, n_labels
        As in `resampled`.
    block
        1 where the predictions of an example are swapped, rows×n.
    first, second
        Labels predicted by the two systems, pairs×n.

    Returns
    -------
    dict
        From metric to differences, pairs×rows, float64.
    """
    columns = _columns(metrics, n_labels)
    of_first = _features(first, references, columns)
    of_second = _features(second, references, columns)
    moved = _product(block, of_second - of_first)
    true = _is_label(references[None], columns).sum(axis=2, dtype=np.float64)[:, None]
    left = of_first.sum(axis=2, dtype=np.float64)[:, None] + moved
    right = of_second.sum(axis=2, dtype=np.float64)[:, None] - moved
    n = references.size
    return {name: METRICS[name](left, true, n) - METRICS[name](right, true, n) for name in metrics}


def _columns(metrics: Sequence[str], n_labels: int) -> int:
    """Return for how many labels, from 1 on, the metrics need counts of their own."""
    if "matthews_correlation" in metrics:
        return n_labels - 1
    return 1 if "f1" in metrics else 0


def _features(predictions: np.ndarray, references: np.ndarray, columns: int) -> np.ndarray:
    right = (predictions == references)[:, None].astype(np.float32)
    return np.concatenate([right, _is_label(predictions, columns)], axis=1)


def _is_label(labels: np.ndarray, columns: int) -> np.ndarray:
    """Return cells×columns×n indicators of the labels 1 … columns."""
    return (labels[:, None] == np.arange(1, columns + 1)[:, None]).astype(np.float32)


def _product(block: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Return the weighted sums of cells×f×n features, cells×rows×f."""
    cells, size, n = features.shape
    sums = features.reshape(cells * size, n) @ block.T
    return sums.reshape(cells, size, len(block)).transpose(0, 2, 1).astype(np.float64)


def _accuracy(sums: np.ndarray, true: np.ndarray, n: int) -> np.ndarray:
    return sums[..., 0] / n


def _f1(sums: np.ndarray, true: np.ndarray, n: int) -> np.ndarray:
    predicted, labelled = sums[..., 1], true[..., 0]
    # right = hits + (n - predicted - labelled + hits) with two labels, hence the hits.
    hits = (sums[..., 0] - n + predicted + labelled) / 2
    either = predicted + labelled
    return np.divide(2 * hits, either, out=np.zeros_like(hits), where=either > 0)


def _matthews(sums: np.ndarray, true: np.ndarray, n: int) -> np.ndarray:
    # Gorodkin, Comput. Biol. Chem. 28 (2004), the R_K statistic.
    right, predicted = sums[..., 0], _with_label_zero(sums[..., 1:], n)
    true = _with_label_zero(true, n)
    covariance = right * n - (predicted * true).sum(axis=-1)
    spread = [np.sqrt(n * n - (part * part).sum(axis=-1)) for part in (predicted, true)]
    norm = spread[0] * spread[1]
    return np.divide(covariance, norm, out=np.zeros_like(covariance), where=norm > 0)


def _with_label_zero(counts: np.ndarray, n: int) -> np.ndarray:
    return np.concatenate([n - counts.sum(axis=-1, keepdims=True), counts], axis=-1)


METRICS = {"accuracy": _accuracy, "f1": _f1, "matthews_correlation": _matthews}
