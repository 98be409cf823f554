"""Weights of rows: how often each row is expected to be used."""

import torch
from torch import Tensor

from lowrank_bench.linalg.units import unit_of
from lowrank_bench.problem import Problem

RIDGE = 1e-4  # as a fraction of the mean squared length of a feature
# Weight of the vocabulary's prior relative to the task's own text. It ranks the words that are
# missing from the text.
PRIOR_SHARE = 0.25


def row_use(problem: Problem, source: str) -> Tensor:
    """Return the weights of the rows, n float64 > 0 with sum 1.

    Parameters
    ----------
    problem
        Must provide `frequency` for `vocabulary`, and also `counts` for `counts`.
    source
        `vocabulary`: `table_frequency`; `counts`: `smoothed_counts`; `uniform`: equal weights.
    """
    matrix = problem.matrix
    if source == "uniform":
        return torch.full_like(matrix[:, 0], 1 / len(matrix))
    prior = table_frequency(matrix, problem.fact("frequency"))
    return prior if source == "vocabulary" else smoothed_counts(problem.fact("counts"), prior)


def table_frequency(matrix: Tensor, frequency: Tensor) -> Tensor:
    """Return the expected use of rows from the order of the vocabulary and the table itself.

    Training leaves its mark on a table: rows of frequent words differ from those of rare words in
    length and position. A ridge regression of log `frequency` on the row, its length and the
    logarithm of its length predicts the use of each row. Rows are ranked by the geometric mean of
    this prediction and `frequency`, and the values of `frequency` are reassigned in this order.
    This corrects tokens whose id says nothing about their use, such as a full stop listed among
    the characters of an alphabet.

    Parameters
    ----------
    matrix
        Tensor A, n×d, float64.
    frequency
        Tensor n > 0.

    Returns
    -------
    Tensor
        n float64 > 0 with sum 1.
    """
    logs = frequency.clamp(min=1e-300).log()
    # Ridge regression in closed form; the features are centred, so there is no intercept.
    features = _features(matrix)
    square = features.T @ features
    ridge = (RIDGE * square.diagonal().mean() or 1.0) * torch.eye(len(square)).to(square)
    slopes = torch.linalg.solve(square + ridge, features.T @ (logs - logs.mean()))
    fitted = (features @ slopes + logs.mean()).clamp(min=logs.min(), max=logs.max())
    # The sum of logarithms ranks like the geometric mean.
    order = torch.argsort(logs + fitted, stable=True)
    use = torch.empty_like(logs).index_put_((order,), logs.sort().values).softmax(dim=0)
    return use.clamp(min=1e-300)  # a share may be too small for float64, but no row is without use


def _features(matrix: Tensor) -> Tensor:
    """Return the centred rows, lengths and logarithms of lengths, n×(d + 2)."""
    rows = matrix / unit_of(matrix)
    length = rows.norm(dim=1, keepdim=True)
    # Relative lengths, and rows of unit variance below: one ridge fits all features.
    length = length / length.mean().clamp(min=1e-300)
    features = torch.cat([rows, length, length.clamp(min=1e-3).log()], dim=1)
    features -= features.mean(dim=0)
    scale = features[:, :-2].square().mean().sqrt().clamp(min=1e-300)
    features[:, :-2] /= scale
    return features


def smoothed_counts(counts: Tensor, prior: Tensor, share: float = PRIOR_SHARE) -> Tensor:
    """Return counts + share·N·prior, where N is the sum of the counts, normalised to sum 1.

    This is the posterior mean under a Dirichlet prior: words that do not occur in the text keep
    the order of the vocabulary.

    Parameters
    ----------
    counts
        Tensor n ≥ 0.
    prior
        Tensor n > 0 with sum 1.
    share
        Weight of the prior, relative to the text.
    """
    total = counts.sum()
    if total == torch.inf:  # counts beyond float64; only their ratios matter
        counts = counts / counts.max()
        total = counts.sum()
    return (counts / total + share * prior) / (1 + share) if total > 0 else prior
