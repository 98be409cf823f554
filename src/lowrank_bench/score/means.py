"""The mean of many cells at once: no metric of labels, but of what each example says by itself."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def resampled(
    block: NDArray[np.float32],
    predictions: NDArray[np.number[Any]],
    references: NDArray[np.number[Any]],
) -> Floats:
    """Return the mean of every cell's predictions on every resample.

    Parameters and shapes are those of `kernels.resampled`; the references are not used.
    """
    total: Floats = predictions.astype(np.float64) @ block.astype(np.float64).T
    return total / references.size


def swapped(
    block: NDArray[np.float32],
    first: NDArray[np.number[Any]],
    second: NDArray[np.number[Any]],
    references: NDArray[np.number[Any]],
) -> Floats:
    """Return mean of `first` − mean of `second` after every swap.

    Parameters and shapes are those of `kernels.swapped`; the references are not used.
    """
    difference = (first - second).astype(np.float64)
    # A swapped example changes the sign of its difference.
    moved = difference @ block.astype(np.float64).T
    result: Floats = (difference.sum(axis=1, keepdims=True) - 2 * moved) / references.size
    return result
