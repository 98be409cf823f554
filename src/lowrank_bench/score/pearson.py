"""Pearson correlation of many cells at once, from weighted moments.

Moments are sums over examples, so one matrix product gives them for all cells and resamples. Both
variables are centred on the whole sample first. In a few resamples (one outlier, a handful of
examples, constants) the mean is still so far off that the subtraction cancels digits; these are
computed again in two passes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Below this share of the second moment, more than two of sixteen digits cancel in the variance.
CANCELS = 1e-2


def resampled(
    block: NDArray[np.float32],
    predictions: NDArray[np.number[Any]],
    references: NDArray[np.number[Any]],
) -> Floats:
    """Return the correlation of every cell on every resample; 0 where a variable is constant.

    Parameters and shapes are those of `kernels.resampled`.
    """
    weights = block.astype(np.float64)
    x = predictions - predictions.mean(axis=1, keepdims=True)
    y = references - references.mean()
    # First and second moments of x, and its product with y, cells×rows each.
    x_sum, xx_sum, xy_sum = (part @ weights.T for part in (x, x * x, x * y))
    y_sum, yy_sum = weights @ y, weights @ (y * y)
    value, doubtful = _from_moments(references.size, x_sum, xx_sum, xy_sum, y_sum, yy_sum)
    for cell in np.flatnonzero(doubtful.any(axis=1)):
        rows = doubtful[cell]
        value[cell, rows] = _two_pass(x[cell], y, weights[rows])
    return value


def swapped(
    block: NDArray[np.float32],
    first: NDArray[np.number[Any]],
    second: NDArray[np.number[Any]],
    references: NDArray[np.number[Any]],
) -> Floats:
    """Return correlation of `first` − correlation of `second` after every swap.

    Parameters and shapes are those of `kernels.swapped`.
    """
    weights = block.astype(np.float64)
    # One centre for both systems: after a swap each holds examples of the other.
    middle = (first.mean(axis=1, keepdims=True) + second.mean(axis=1, keepdims=True)) / 2
    x_first, x_second, y = first - middle, second - middle, references - references.mean()
    left, right = [], []
    terms: tuple[Callable[[Floats], Floats], ...] = (lambda x: x, lambda x: x * x, lambda x: x * y)
    for term in terms:
        of_first, of_second = term(x_first), term(x_second)
        # A swapped example moves its term from one system's sum to the other's.
        moved = (of_second - of_first) @ weights.T
        left.append(of_first.sum(axis=1, keepdims=True) + moved)
        right.append(of_second.sum(axis=1, keepdims=True) - moved)
    values = []
    for sums, system, other in ((left, x_first, x_second), (right, x_second, x_first)):
        x_sum, xx_sum, xy_sum = sums
        y_sum, yy_sum = y.sum(), (y * y).sum()
        value, doubtful = _from_moments(y.size, x_sum, xx_sum, xy_sum, y_sum, yy_sum)
        for pair in np.flatnonzero(doubtful.any(axis=1)):
            rows = doubtful[pair]
            mixed = np.where(block[rows] > 0, other[pair], system[pair])
            value[pair, rows] = _two_pass(mixed, y, np.ones_like(mixed))
        values.append(value)
    return values[0] - values[1]


def _from_moments(
    n: int,
    x: Floats,
    xx: Floats,
    xy: Floats,
    y: Floats | np.float64,
    yy: Floats | np.float64,
) -> tuple[Floats, NDArray[np.bool_]]:
    """Return correlations, and where cancellation makes them doubtful; those are 0 so far."""
    x_spread, y_spread = xx - x * x / n, yy - y * y / n
    doubtful = (x_spread <= CANCELS * xx) | (y_spread <= CANCELS * yy)
    norm = np.sqrt(np.maximum(x_spread, 0)) * np.sqrt(np.maximum(y_spread, 0))
    value = np.divide(xy - x * y / n, norm, out=np.zeros_like(xy), where=~doubtful)
    return np.clip(value, -1, 1), doubtful


def _two_pass(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Return the weighted correlation, one per row of `weights`; 0 where a variable is constant."""
    total = weights.sum(axis=1)
    x, x_constant = _centred(x, weights, total)
    y, y_constant = _centred(y, weights, total)
    norm = np.sqrt((weights * x * x).sum(axis=1)) * np.sqrt((weights * y * y).sum(axis=1))
    defined = ~(x_constant | y_constant) & (norm > 0)
    covariance = (weights * x * y).sum(axis=1)
    value: Floats = np.divide(covariance, norm, out=np.zeros_like(total), where=defined)
    clipped: Floats = np.clip(value, -1, 1)
    return clipped


def _centred(x: Floats, weights: Floats, total: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Return x minus its weighted mean, rows×n, and in which rows all drawn values are equal.

    Constants are told by comparison: rounding can leave them a variance above 0.
    """
    x = np.broadcast_to(x, weights.shape)
    drawn = weights > 0
    low = np.where(drawn, x, np.inf).min(axis=1)
    high = np.where(drawn, x, -np.inf).max(axis=1)
    mean = (weights * x).sum(axis=1) / total
    return x - mean[:, None], low == high
