"""Accuracy, F1 and Matthews correlation of many cells at once, from weighted counts.

Each is a function of how many examples are predicted right, predicted as label k and labelled k.
These counts are sums over examples, so one matrix product gives them for all cells and all
resamples; they are integers below 2^24 and therefore exact in float32.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def resampled(
    metrics: Sequence[str],
    block: NDArray[np.float32],
    predictions: NDArray[np.number[Any]],
    references: NDArray[np.number[Any]],
    n_labels: int,
) -> dict[str, NDArray[np.float64]]:
    """Return the metrics of every cell on every resample, as `kernels.resampled` does.

    `metrics` are among `accuracy`, `f1` (two labels) and `matthews_correlation`.
    """
    columns = _columns(metrics, n_labels)
    sums = _product(block, _features(predictions, references, columns))
    true = _product(block, _is_label(references[None], columns))
    return {name: METRICS[name](sums, true, references.size) for name in metrics}


def swapped(
    metrics: Sequence[str],
    block: NDArray[np.float32],
    first: NDArray[np.number[Any]],
    second: NDArray[np.number[Any]],
    references: NDArray[np.number[Any]],
    n_labels: int,
) -> dict[str, NDArray[np.float64]]:
    """Return metric of `first` − metric of `second` after every swap, as `kernels.swapped` does.

    `metrics` are those of `resampled`.
    """
    columns = _columns(metrics, n_labels)
    of_first = _features(first, references, columns)
    of_second = _features(second, references, columns)
    # A swapped example moves its counts from one system to the other: one product serves both.
    moved = _product(block, of_second - of_first)
    # The labels stay where they are; their counts are those of the whole split.
    true = _is_label(references[None], columns).sum(axis=2, dtype=np.float64)[:, None]
    left = of_first.sum(axis=2, dtype=np.float64)[:, None] + moved
    right = of_second.sum(axis=2, dtype=np.float64)[:, None] - moved
    n = references.size
    return {name: METRICS[name](left, true, n) - METRICS[name](right, true, n) for name in metrics}


def _columns(metrics: Sequence[str], n_labels: int) -> int:
    """Return the number of labels, from 1 on, whose counts the metrics need; 0 has the rest."""
    if "matthews_correlation" in metrics:
        return n_labels - 1
    return 1 if "f1" in metrics else 0


def _features(
    predictions: NDArray[np.number[Any]], references: NDArray[np.number[Any]], columns: int
) -> NDArray[np.float32]:
    """Return cells×(1 + columns)×n indicators: predicted right, then predicted as each label."""
    right = (predictions == references)[:, None].astype(np.float32)
    return np.concatenate([right, _is_label(predictions, columns)], axis=1)


def _is_label(labels: NDArray[np.number[Any]], columns: int) -> NDArray[np.float32]:
    """Return cells×columns×n indicators of the labels 1 … columns."""
    indicators: NDArray[np.float32] = (
        labels[:, None] == np.arange(1, columns + 1)[:, None]
    ).astype(np.float32)
    return indicators


def _product(block: NDArray[np.float32], features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the weighted sums of cells×f×n features, cells×rows×f."""
    cells, size, n = features.shape
    sums = features.reshape(cells * size, n) @ block.T
    return sums.reshape(cells, size, len(block)).transpose(0, 2, 1).astype(np.float64)


def _accuracy(sums: NDArray[np.float64], true: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    return sums[..., 0] / n


def _f1(sums: NDArray[np.float64], true: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    predicted, labelled = sums[..., 1], true[..., 0]
    # With two labels, right = hits + (n − predicted − labelled + hits); solve for the hits.
    hits = (sums[..., 0] - n + predicted + labelled) / 2
    either = predicted + labelled
    value: NDArray[np.float64] = np.divide(
        2 * hits, either, out=np.zeros_like(hits), where=either > 0
    )
    return value


def _matthews(sums: NDArray[np.float64], true: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    # The R_K statistic for any number of labels: Gorodkin, Comput. Biol. Chem. 28 (2004).
    right, predicted = sums[..., 0], _with_label_zero(sums[..., 1:], n)
    true = _with_label_zero(true, n)
    covariance = right * n - (predicted * true).sum(axis=-1)
    spread = [np.sqrt(n * n - (part * part).sum(axis=-1)) for part in (predicted, true)]
    # A constant prediction, or constant labels, have no spread: the correlation is 0 by convention.
    norm = spread[0] * spread[1]
    value: NDArray[np.float64] = np.divide(
        covariance, norm, out=np.zeros_like(covariance), where=norm > 0
    )
    return value


def _with_label_zero(counts: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Put the count of label 0, which is what the others leave of n, before theirs."""
    return np.concatenate([n - counts.sum(axis=-1, keepdims=True), counts], axis=-1)


METRICS = {"accuracy": _accuracy, "f1": _f1, "matthews_correlation": _matthews}
