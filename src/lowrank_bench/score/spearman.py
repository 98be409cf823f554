"""Spearman correlation of many cells at once, with exact mid-ranks of every resample.

Sort the predictions once. In a resample, a group of equal predictions that is drawn c times and
ends at the cumulative count C has the mid-rank C − (c − 1)/2. Twice the centred ranks,
2C − c − n, are integers, so sums of their products are exact, degenerate resamples included (up
to 100,000 examples), and their squares sum to (n³ − Σ c³)/3.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

# Rows of a block that are worked on together: arrays of a GLUE split then stay near the cache.
ROWS = 128
# Cumulative sums are taken within runs of this length, then over the runs.
RUN = 32


def resampled(block: np.ndarray, predictions: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return the rank correlation of every cell on every resample.

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
    n = references.size
    groups, y_groups = [_groups(scores) for scores in predictions], _groups(references)
    value = np.empty((len(predictions), len(block)))
    for start in range(0, len(block), ROWS):
        rows = slice(start, start + ROWS)
        weights = np.ascontiguousarray(block[rows].T, dtype=np.float64)
        y_counts = y_groups.sums(weights)
        y = weights * y_groups.spread(2 * _running_sum(y_counts) - y_counts - n)
        y_squares = _squares(y_counts, n)
        for cell, group in enumerate(groups):
            counts = group.sums(weights)
            product = _product(counts, group.sums(y))
            value[cell, rows] = _ratio(product, _squares(counts, n), y_squares)
    return value


def swapped(
    block: np.ndarray, first: np.ndarray, second: np.ndarray, references: np.ndarray
) -> np.ndarray:
    """Return rank correlation of `first` − that of `second` after every swap.

    Both systems' predictions are sorted together; a swap chooses which n of the 2n belong to
    the one system, the rest belong to the other.

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
    n = references.size
    groups = [_groups(np.concatenate(pair)) for pair in zip(first, second, strict=True)]
    y_groups = _groups(references)
    sizes = y_groups.sizes[:, None].astype(np.float64)
    y = np.tile(y_groups.spread(2 * np.cumsum(sizes, axis=0) - sizes - n), (2, 1))
    y_squares = _squares(sizes, n)
    gaps = np.stack([_gap(group, y[:, 0]) for group in groups])
    value = np.empty((len(first), len(block)))
    for start in range(0, len(block), ROWS):
        rows = slice(start, start + ROWS)
        swaps = np.ascontiguousarray(block[rows].T, dtype=np.float64)
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

    order: np.ndarray
    starts: np.ndarray

    @cached_property
    def sizes(self) -> np.ndarray:
        """Examples in each group."""
        return np.diff(np.append(self.starts, len(self.order)))

    @cached_property
    def tied(self) -> np.ndarray:
        """Whether a group holds more than one example."""
        return self.sizes > 1

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sum values of the examples, n×rows, over the groups, groups×rows."""
        sums = values[self.order[self.starts]]
        if self.tied.any():  # mostly few: the rest needs no summing
            members = self.order[np.repeat(self.tied, self.sizes)]
            sizes = self.sizes[self.tied]
            sums[self.tied] = np.add.reduceat(values[members], np.cumsum(sizes) - sizes, axis=0)
        return sums

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Give every example the value of its group, n×rows."""
        out = np.empty((len(self.order), values.shape[1]))
        out[self.order] = np.repeat(values, self.sizes, axis=0)
        return out


def _groups(scores: np.ndarray) -> _Groups:
    order = np.argsort(scores, kind="stable")
    new = np.flatnonzero(np.diff(scores[order])) + 1
    return _Groups(order, np.concatenate([[0], new]))


def _running_sum(values: np.ndarray) -> np.ndarray:
    """Return cumulative sums down the columns: `numpy.cumsum`, at several times its speed.

    NumPy adds one number at a time along an axis; here each addition is of whole rows.
    """
    length, width = values.shape
    runs = np.zeros((-(-length // RUN), RUN, width))
    flat = runs.reshape(-1, width)
    flat[:length] = values
    for place in range(1, RUN):
        runs[:, place] += runs[:, place - 1]
    for run in range(1, len(runs)):
        runs[run] += runs[run - 1, -1]
    return flat[:length]


def _product(counts: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Sum the products of centred ranks; `y` sums to 0, so the centre n of the one can go."""
    cumulative = np.einsum("ij,ij->j", _running_sum(counts), y)
    return 2 * cumulative - np.einsum("ij,ij->j", counts, y)


def _squares(counts: np.ndarray, n: int) -> np.ndarray:
    return (float(n) ** 3 - np.einsum("ij,ij,ij->j", counts, counts, counts)) / 3


def _both_squares(counts: np.ndarray, sizes: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the squares of the system with `counts` of the groups and of the one with the rest.

    A group of one has a count of 0 or 1, its own cube; only ties need more.
    """
    tied = sizes > 1
    left = counts[tied]
    right = sizes[tied, None] - left
    parts = (
        n - part.sum(axis=0) + np.einsum("ij,ij,ij->j", part, part, part) for part in (left, right)
    )
    of_left, of_right = ((float(n) ** 3 - cubes) / 3 for cubes in parts)
    return of_left, of_right


def _gap(group: _Groups, y: np.ndarray) -> np.ndarray:
    """Return what takes the one system's product of ranks to the other's, linear in the swaps.

    With T the sizes of the groups, Y their sums of y, and c and z what the one system has of
    them, the other has T − c and Y − z. In the difference of the two products the terms in c·z
    cancel, and what is left is a sum over the one system's examples, hence over the swaps.

    Returns
    -------
    numpy.ndarray
        Coefficients of the n swaps, then the constant.
    """
    sizes, total = group.sizes, group.sums(y[:, None])[:, 0]
    ranks = 2 * np.cumsum(sizes) - sizes
    above = 2 * np.cumsum(total[::-1])[::-1] - total
    each = group.spread(np.stack([ranks, above], axis=1))
    own = each[:, 0] * y + each[:, 1]
    first, second = np.split(own, 2)
    return np.append(first - second, ranks @ total - first.sum())


def _ratio(product: np.ndarray, squares: np.ndarray, y_squares: np.ndarray) -> np.ndarray:
    norm = np.sqrt(squares) * np.sqrt(y_squares)
    return np.divide(product, norm, out=np.zeros_like(product), where=norm > 0)
