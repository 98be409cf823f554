"""Pearson correlation of many cells at once, from weighted moments.

Moments are sums over examples, so one matrix product gives them for all cells and resamples. Both
variables are centred on the whole sample first; the few resamples whose own mean is so far off
that the subtraction would cancel digits (one outlier, a handful of examples, constants) are
computed again in two passes.
"""

import numpy as np

# Below this share of the second moment, more than two of sixteen digits cancel in the variance.
CANCELS = 1e-2


def resampled(block: np.ndarray, predictions: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return the correlation of every cell on every resample.

    Parameters
    ----------
    block
        Counts of each example in each resample, rows×n.
    predictions, references
        Finite scores, cells×n and n.

    Returns
    -------
    numpy.ndarray
        Correlations, cells×rows, float64; 0 where a variable is constant.
    """
    weights = block.astype(np.float64)
    x = predictions - predictions.mean(axis=1, keepdims=True)
    y = references - references.mean()
    sums = [part @ weights.T for part in (x, x * x, x * y)]
    value, doubtful = _from_moments(references.size, *sums, weights @ y, weights @ (y * y))
    for cell in np.flatnonzero(doubtful.any(axis=1)):
        rows = doubtful[cell]
        value[cell, rows] = _two_pass(x[cell], y, weights[rows])
    return value


def swapped(
    block: np.ndarray, first: np.ndarray, second: np.ndarray, references: np.ndarray
) -> np.ndarray:
    """Return correlation of `first` − correlation of `second` after every swap.

    Parameters
    ----------
    block
        1 where the predictions of an example are swapped, rows×n.
    first, second
        Finite scores of the two systems, pairs×n.
    references
        Finite scores, n.

    Returns
    -------
    numpy.ndarray
        Differences, pairs×rows, float64.
    """
    weights = block.astype(np.float64)
    middle = (first.mean(axis=1, keepdims=True) + second.mean(axis=1, keepdims=True)) / 2
    first, second, y = first - middle, second - middle, references - references.mean()
    left, right = [], []
    for power in (lambda x: x, lambda x: x * x, lambda x: x * y):
        of_first, of_second = power(first), power(second)
        moved = (of_second - of_first) @ weights.T
        left.append(of_first.sum(axis=1, keepdims=True) + moved)
        right.append(of_second.sum(axis=1, keepdims=True) - moved)
    values = []
    for sums, own, other in ((left, first, second), (right, second, first)):
        value, doubtful = _from_moments(y.size, *sums, y.sum(), (y * y).sum())
        for pair in np.flatnonzero(doubtful.any(axis=1)):
            rows = doubtful[pair]
            mixed = np.where(block[rows] > 0, other[pair], own[pair])
            value[pair, rows] = _two_pass(mixed, y, np.ones_like(mixed))
        values.append(value)
    return values[0] - values[1]


def _from_moments(
    n: int, x: np.ndarray, xx: np.ndarray, xy: np.ndarray, y: np.ndarray, yy: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return correlations, and where they are not to be trusted."""
    x_spread, y_spread = xx - x * x / n, yy - y * y / n
    doubtful = (x_spread <= CANCELS * xx) | (y_spread <= CANCELS * yy)
    norm = np.sqrt(np.maximum(x_spread, 0)) * np.sqrt(np.maximum(y_spread, 0))
    value = np.divide(xy - x * y / n, norm, out=np.zeros_like(xy), where=~doubtful)
    return np.clip(value, -1, 1), doubtful


def _two_pass(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weighted correlation, one per row of `weights`; 0 where a variable is constant."""
    total = weights.sum(axis=1)
    x, x_constant = _centred(x, weights, total)
    y, y_constant = _centred(y, weights, total)
    norm = np.sqrt((weights * x * x).sum(axis=1)) * np.sqrt((weights * y * y).sum(axis=1))
    defined = ~(x_constant | y_constant) & (norm > 0)
    covariance = (weights * x * y).sum(axis=1)
    value = np.divide(covariance, norm, out=np.zeros_like(total), where=defined)
    return np.clip(value, -1, 1)


def _centred(
    x: np.ndarray, weights: np.ndarray, total: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    x = np.broadcast_to(x, weights.shape)
    drawn = weights > 0
    low = np.where(drawn, x, np.inf).min(axis=1)
    high = np.where(drawn, x, -np.inf).max(axis=1)
    mean = (weights * x).sum(axis=1) / total
    return x - mean[:, None], low == high
