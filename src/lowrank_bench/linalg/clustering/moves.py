"""Moves of single rows between clusters: a finer local search for small matrices."""

import math
from functools import lru_cache

import torch
from torch import Tensor

MOST = 3  # largest number of rows moved at once
WORK = 60_000  # limit of candidates · k · d³, so that trying all of them takes milliseconds


def better_labels(
    matrix: Tensor, labels: Tensor, clusters: int, dimension: int, scale: Tensor | None = None
) -> Tensor:
    """Return the labels after the move of up to three rows that lowers Σ distance² most.

    A row that is nearest to its own subspace may still fit better elsewhere once both subspaces
    are refitted. This search therefore finds improvements where alternating assignment and
    fitting has converged, as Hartigan's rule does for k-means. It returns `labels` unchanged if
    no move helps, or if the matrix is so large that trying all moves would take long.

    Parameters
    ----------
    matrix
        Tensor n×d.
    labels
        Tensor n in 0..k−1.
    clusters, dimension
        k and j.
    scale
        Tensor n: square roots of the weights of the rows, or None for ones.
    """
    rows, columns = matrix.shape
    moves = MOST
    # Try as many simultaneous moves as the work limit allows.
    while _count(rows, clusters, moves) * clusters * columns**3 > WORK:
        moves -= 1
        if moves == 0:
            return labels
    scaled = matrix if scale is None else matrix * scale[:, None]
    candidates = (labels + _shifts(rows, clusters, moves).to(labels.device)) % clusters
    costs = _costs(scaled, candidates, clusters, dimension)
    least = costs.argmin()
    # Candidate 0 is `labels`; a gain within rounding error could let the search cycle.
    gain = costs[0] - costs[least]
    return candidates[least] if gain > 1e-12 * scaled.square().sum() else labels


def _count(rows: int, clusters: int, moves: int) -> int:
    """Return the number of labellings that differ in at most `moves` entries."""
    return sum(math.comb(rows, count) * (clusters - 1) ** count for count in range(moves + 1))


@lru_cache(maxsize=8)
def _shifts(rows: int, clusters: int, moves: int) -> Tensor:
    """Return all distinct label changes (mod k) of at most `moves` rows; the first is zero."""
    singles = torch.eye(rows, dtype=torch.int64) * torch.arange(clusters)[:, None, None]
    singles = singles.view(-1, rows)
    shifts = singles[:1]
    for _ in range(moves):
        # Add every single move to every change so far; `unique` also sorts, so zero comes first.
        sums = ((shifts[:, None] + singles) % clusters).view(-1, rows)
        shifts = torch.unique(sums, dim=0)
    return shifts


def _costs(matrix: Tensor, labels: Tensor, clusters: int, dimension: int) -> Tensor:
    """Return Σ distance² for each row of `labels`, m×n."""
    # The Gram matrix of a cluster is the sum of a_i a_iᵀ over its rows, for all candidates at once.
    outer = (matrix[:, :, None] * matrix[:, None, :]).flatten(1)
    member = torch.nn.functional.one_hot(labels, clusters).transpose(1, 2).to(matrix)
    width = matrix.shape[1]
    grams = (member @ outer).reshape(len(labels), clusters, width, width)
    # A cluster costs the eigenvalues beyond the j largest; `eigvalsh` sorts them ascending.
    squares = torch.linalg.eigvalsh(grams)
    costs: Tensor = squares[..., : width - dimension].clamp(min=0).sum(dim=(1, 2))
    return costs
