"""Spearman correlation of many cells at once, with exact mid-ranks of every resample.

Sort the predictions once. In a resample, a group of equal predictions that is drawn c times and
ends at the cumulative count C has the mid-rank C − (c − 1)/2. Twice the centred ranks,
2C − c − n, are integers, so sums of their products are exact, degenerate resamples included (up
to 100,000 examples), and their squares sum to (n³ − Σ c³)/3.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.intp]

# Rows of a block that are processed together, so that the arrays of a GLUE split stay in the cache.
ROWS = 128
# Cumulative sums are taken within runs of this length, then over the runs.
RUN = 32


def resampled(
    block: NDArray[np.float32],
    predictions: NDArray[np.number[Any]],
    references: NDArray[np.number[Any]],
) -> Floats:
    """Return the rank correlation of every cell on every resample; 0 where a variable is constant.

    Parameters and shapes are those of `kernels.resampled`.
    """
    n = references.size
    groups, y_groups = [_groups(scores) for scores in predictions], _groups(references)
    value = np.empty((len(predictions), len(block)))
    for start in range(0, len(block), ROWS):
        rows = slice(start, start + ROWS)
        weights = np.ascontiguousarray(block[rows].T, dtype=np.float64)
        y_counts = y_groups.sums(weights)
        # Twice the centred ranks of the references, once for each time that they were drawn.
        y = weights * y_groups.spread(2 * _running_sum(y_counts) - y_counts - n)
        y_squares = _squares(y_counts, n)
        for cell, group in enumerate(groups):
            counts = group.sums(weights)
            product = _product(counts, group.sums(y))
            value[cell, rows] = _ratio(product, _squares(counts, n), y_squares)
    return value


def swapped(
    block: NDArray[np.float32],
    first: NDArray[np.number[Any]],
    second: NDArray[np.number[Any]],
    references: NDArray[np.number[Any]],
) -> Floats:
    """Return rank correlation of `first` − that of `second` after every swap.

    Both systems' predictions are sorted together; a swap chooses which n of the 2n belong to
    the left system, and the rest belong to the right one. Parameters and shapes are those of
    `kernels.swapped`.
    """
    n = references.size
    groups = [_groups(np.concatenate(pair)) for pair in zip(first, second, strict=True)]
    y_groups = _groups(references)
    sizes = y_groups.sizes[:, None].astype(np.float64)
    # Swaps leave the references as they are: their ranks are computed once, for both systems.
    y = np.tile(y_groups.spread(2 * np.cumsum(sizes, axis=0) - sizes - n), (2, 1))
    y_squares = _squares(sizes, n)
    gaps = np.stack([_gap(group, y[:, 0]) for group in groups])
    value = np.empty((len(first), len(block)))
    for start in range(0, len(block), ROWS):
        rows = slice(start, start + ROWS)
        swaps = np.ascontiguousarray(block[rows].T, dtype=np.float64)
        # The right system needs no further sums: its product differs by a linear form in the swaps.
        gap = gaps[:, -1:] + gaps[:, :-1] @ swaps
        left = np.concatenate([1 - swaps, swaps])
        y_left = left * y
        for pair, group in enumerate(groups):
            counts = group.sums(left)
            product = _product(counts, group.sums(y_left))
            of_left, of_right = _both_squares(counts, group.sizes, n)
            value[pair, rows] = _ratio(product, of_left, y_squares)
            value[pair, rows] -= _ratio(product + gap[pair], of_right, y_squares)
    return value


@dataclass(frozen=True)
class _Groups:
    """Groups of equal scores: the order that sorts them, and where in it each group starts."""

    order: Integers
    starts: Integers

    @cached_property
    def sizes(self) -> Integers:
        """Examples in each group."""
        return np.diff(np.append(self.starts, len(self.order)))

    @cached_property
    def tied(self) -> NDArray[np.bool_]:
        """Whether a group holds more than one example."""
        return self.sizes > 1

    def sums(self, values: Floats) -> Floats:
        """Sum values of the examples, n×rows, over the groups, groups×rows."""
        sums = values[self.order[self.starts]]
        if self.tied.any():  # usually few; groups of one need no summing
            members = self.order[np.repeat(self.tied, self.sizes)]
            sizes = self.sizes[self.tied]
            sums[self.tied] = np.add.reduceat(values[members], np.cumsum(sizes) - sizes, axis=0)
        return sums

    def spread(self, values: NDArray[np.number[Any]]) -> Floats:
        """Give every example the value of its group, n×rows."""
        out = np.empty((len(self.order), values.shape[1]))
        out[self.order] = np.repeat(values, self.sizes, axis=0)
        return out


def _groups(scores: NDArray[np.number[Any]]) -> _Groups:
    order = np.argsort(scores, kind="stable")
    new = np.flatnonzero(np.diff(scores[order])) + 1
    return _Groups(order, np.concatenate([[0], new]))


def _running_sum(values: Floats) -> Floats:
    """Return cumulative sums down the columns, several times as fast as `numpy.cumsum`.

    NumPy adds one number at a time along an axis; here each addition is of whole rows.
    """
    length, width = values.shape
    runs = np.zeros((-(-length // RUN), RUN, width))
    flat = runs.reshape(-1, width)
    flat[:length] = values
    # All runs at once, row by row; then each run starts from the last row of the one before.
    for place in range(1, RUN):
        runs[:, place] += runs[:, place - 1]
    for run in range(1, len(runs)):
        runs[run] += runs[run - 1, -1]
    return flat[:length]


def _product(counts: Floats, y: Floats) -> Floats:
    """Sum the products of centred ranks; as `y` sums to 0, the centre n of the others drops out."""
    cumulative: Floats = np.einsum("ij,ij->j", _running_sum(counts), y)
    within: Floats = np.einsum("ij,ij->j", counts, y)
    return 2 * cumulative - within


def _squares(counts: Floats, n: int) -> Floats:
    """Return the sum of squares of twice the centred ranks, (n³ − Σ c³)/3."""
    cubes: Floats = np.einsum("ij,ij,ij->j", counts, counts, counts)
    return (float(n) ** 3 - cubes) / 3


def _both_squares(counts: Floats, sizes: Integers, n: int) -> tuple[Floats, Floats]:
    """Return `_squares` of the system with `counts` of the groups, and of the one with the rest.

    In a group of one the count is 0 or 1 and equals its cube; only tied groups need cubing.
    """
    tied = sizes > 1
    left = counts[tied]
    right = sizes[tied, None] - left
    parts = (
        n - part.sum(axis=0) + np.einsum("ij,ij,ij->j", part, part, part) for part in (left, right)
    )
    of_left, of_right = ((float(n) ** 3 - cubes) / 3 for cubes in parts)
    return of_left, of_right


def _gap(group: _Groups, y: Floats) -> Floats:
    """Return the right system's product of ranks minus the left one's, a linear form in the swaps.

    With T the sizes of the groups, Y their sums of y, and c and z the left system's part of
    them, the right one has T − c and Y − z. In the difference of the two products the terms in
    c·z cancel, and what is left is a sum over the left system's examples, hence over the swaps.

    Returns
    -------
    numpy.ndarray
        Coefficients of the n swaps, then the constant.
    """
    sizes, total = group.sizes, group.sums(y[:, None])[:, 0]
    ranks = 2 * np.cumsum(sizes) - sizes
    above = 2 * np.cumsum(total[::-1])[::-1] - total
    each = group.spread(np.stack([ranks, above], axis=1))
    terms = each[:, 0] * y + each[:, 1]
    # A swap takes the example's term of one system out of the sum and puts the other's in.
    first, second = np.split(terms, 2)
    return np.append(first - second, ranks @ total - first.sum())


def _ratio(product: Floats, squares: Floats, y_squares: Floats) -> Floats:
    """Return the correlation; 0 where a variable is constant."""
    norm = np.sqrt(squares) * np.sqrt(y_squares)
    value: Floats = np.divide(product, norm, out=np.zeros_like(product), where=norm > 0)
    return value
