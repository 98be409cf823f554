"""Powers of two near the entries of a matrix, by which it is scaled without rounding."""

import math

import torch
from torch import Tensor


def power_of_two(value: float) -> float:
    """Return the smallest power of two above `value` > 0, or 2¹⁰²³; scaling by it is exact."""
    return math.ldexp(1.0, min(math.frexp(value)[1], 1023))


def largest_entry(matrix: Tensor) -> float:
    """Return max |a_ij| without a copy of the matrix; NaN if any entry is NaN."""
    if matrix.numel() == 0:
        return 0.0
    low, high = torch.aminmax(matrix)
    return max(-float(low), float(high)) if low == low else math.nan


def unit_of(matrix: Tensor) -> float:
    """Return a power of two that scales all entries to at most two; 1 for a zero matrix.

    After a division by it, squares of entries do not overflow. The division is exact.
    """
    return power_of_two(largest_entry(matrix) or 0.5)
