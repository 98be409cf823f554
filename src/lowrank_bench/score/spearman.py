"""Spearman correlation of many cells at once, with exact mid-ranks of every resample.

Sort the predictions once. In a resample, a group of equal predictions that is drawn c times and
ends at the cumulative count C has the mid-rank C − (c − 1)/2. Twice the centred ranks are integers,
so their products are exact, degenerate resamples included (up to about 200,000 examples), and
their squares sum to (n³ − Σ c³)/3.
"""

import numpy as np

# Rows of a block that are worked on together: n×64 doubles of a GLUE split stay in the cache.
ROWS = 64


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
    groups = [_groups(scores) for scores in predictions]
    y_order, y_starts = _groups(references)
    value = np.empty((len(predictions), len(block)))
    for start in range(0, len(block), ROWS):
        rows = slice(start, start + ROWS)
        weights = np.ascontiguousarray(block[rows].T, dtype=np.float64)
        ranks, y_squares = _ranks(_by_group(weights, y_order, y_starts), references.size)
        sizes = np.diff(np.append(y_starts, references.size))
        y = np.empty_like(weights)
        y[y_order] = np.repeat(ranks, sizes, axis=0)
        y *= weights
        for cell, (order, starts) in enumerate(groups):
            ranks, squares = _ranks(_by_group(weights, order, starts), references.size)
            product = np.einsum("ij,ij->j", ranks, _by_group(y, order, starts))
            value[cell, rows] = _ratio(product, squares, y_squares)
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
    y_order, y_starts = _groups(references)
    y_sizes = np.diff(np.append(y_starts, n)).astype(np.float64)
    ranks, y_squares = _ranks(y_sizes[:, None], n)
    y = np.empty((n, 1))
    y[y_order] = np.repeat(ranks, y_sizes.astype(int), axis=0)
    value = np.empty((len(first), len(block)))
    for start in range(0, len(block), ROWS):
        rows = slice(start, start + ROWS)
        swaps = np.ascontiguousarray(block[rows].T, dtype=np.float64)
        both = np.concatenate([1 - swaps, swaps])
        y_both = np.concatenate([y, y])
        weighted = both * y_both
        for pair, (order, starts) in enumerate(groups):
            left, y_left = _by_group(both, order, starts), _by_group(weighted, order, starts)
            sizes = np.diff(np.append(starts, 2 * n)).astype(np.float64)[:, None]
            right, y_right = sizes - left, _by_group(y_both, order, starts) - y_left
            value[pair, rows] = _correlation(left, y_left, n, y_squares)
            value[pair, rows] -= _correlation(right, y_right, n, y_squares)
    return value


def _groups(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the order that sorts `scores`, and where in it each run of equal scores starts."""
    order = np.argsort(scores, kind="stable")
    new = np.diff(scores[order]) != 0
    return order, np.concatenate([[0], np.flatnonzero(new) + 1])


def _by_group(values: np.ndarray, order: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Sum n×rows values over the groups."""
    ordered = values[order]
    return ordered if len(starts) == len(order) else np.add.reduceat(ordered, starts, axis=0)


def _ranks(counts: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return twice the centred mid-ranks of the groups, and their squares summed over examples."""
    ranks = np.cumsum(counts, axis=0)
    ranks *= 2
    ranks -= counts
    ranks -= n
    cubes = np.einsum("ij,ij,ij->j", counts, counts, counts)
    return ranks, (float(n) ** 3 - cubes) / 3


def _correlation(
    counts: np.ndarray, y: np.ndarray, n: int, y_squares: np.ndarray
) -> np.ndarray:
    ranks, squares = _ranks(counts, n)
    return _ratio(np.einsum("ij,ij->j", ranks, y), squares, y_squares)


def _ratio(product: np.ndarray, squares: np.ndarray, y_squares: np.ndarray) -> np.ndarray:
    norm = np.sqrt(squares) * np.sqrt(y_squares)
    return np.divide(product, norm, out=np.zeros_like(product), where=norm > 0)
