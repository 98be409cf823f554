"""Rows moved between clusters where that lowers the cost: a finer search, for few rows."""

import math
from functools import lru_cache

import torch
from torch import Tensor

MOST = 3  # rows moved at once
# Most (candidates · k · d³) for which the cost of every candidate is computed: milliseconds.
WORK = 60_000


def better_labels(
    matrix: Tensor, labels: Tensor, clusters: int, dimension: int, scale: Tensor | None = None
) -> Tensor:
    """Return the labels after the move of one to three rows that lowers Σ distance² most.

    A row that is nearest to its own subspace may still fit better elsewhere, once both subspaces
    follow it. So this finds gains where assigning and fitting in turn finds none, as Hartigan's
    rule does for k-means. Where the matrix is so large that trying all moves would take long, or
    where none helps, `labels` come back.

    Parameters
    ----------
    matrix
        Tensor n×d.
    labels
        Tensor n in 0..k−1.
    clusters, dimension
        k and j.
    scale
        Square roots of the rows' weights, or None for ones.
    """
    rows, columns = matrix.shape
    moves = MOST
    while _count(rows, clusters, moves) * clusters * columns**3 > WORK:
        moves -= 1
        if moves == 0:
            return labels
    scaled = matrix if scale is None else matrix * scale[:, None]
    candidates = (labels + _shifts(rows, clusters, moves).to(labels.device)) % clusters
    costs = _costs(scaled, candidates, clusters, dimension)
    least = costs.argmin()
    gain = costs[0] - costs[least]
    return candidates[least] if gain > 1e-12 * scaled.square().sum() else labels


def _count(rows: int, clusters: int, moves: int) -> int:
    """Return how many labels differ in at most `moves` entries."""
    return sum(math.comb(rows, count) * (clusters - 1) ** count for count in range(moves + 1))


@lru_cache(maxsize=8)
def _shifts(rows: int, clusters: int, moves: int) -> Tensor:
    """Return, once each, what at most `moves` moves add to labels modulo k; the first adds 0."""
    singles = torch.eye(rows, dtype=torch.int64) * torch.arange(clusters)[:, None, None]
    singles = singles.view(-1, rows)
    shifts = singles[:1]
    for _ in range(moves):
        shifts = ((shifts[:, None] + singles) % clusters).view(-1, rows).unique(dim=0)
    return shifts


def _costs(matrix: Tensor, labels: Tensor, clusters: int, dimension: int) -> Tensor:
    """Return Σ distance² for each row of `labels`, m×n."""
    outer = (matrix[:, :, None] * matrix[:, None, :]).flatten(1)
    member = torch.nn.functional.one_hot(labels, clusters).transpose(1, 2).to(matrix)
    grams = (member @ outer).unflatten(2, (matrix.shape[1],) * 2)
    squares = torch.linalg.eigvalsh(grams)
    return squares[..., : squares.shape[-1] - dimension].clamp(min=0).sum(dim=(1, 2))
