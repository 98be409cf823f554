"""How much the error of each row should count: its expected use."""

import torch
from torch import Tensor

from lowrank_bench.linalg.gram import unit_of
from lowrank_bench.problem import Problem

RIDGE = 1e-4  # of the mean squared length of a feature
# A task's own text counts for all but this share of the evidence: what rare words it lacks is
# told by the vocabulary.
PRIOR_SHARE = 0.25


def row_use(problem: Problem, source: str) -> Tensor:
    """Return the weights of the rows, n float64 > 0 of sum 1.

    Parameters
    ----------
    problem
        With `frequency` for `vocabulary`, with `counts` as well for `counts`.
    source
        `vocabulary`: `table_frequency`; `counts`: `smoothed_counts`; `uniform`: all alike.
    """
    matrix = problem.matrix
    if source == "uniform":
        return torch.full_like(matrix[:, 0], 1 / len(matrix))
    prior = table_frequency(matrix, problem.fact("frequency"))
    return prior if source == "vocabulary" else smoothed_counts(problem.fact("counts"), prior)


def table_frequency(matrix: Tensor, frequency: Tensor) -> Tensor:
    """Return the expected use of rows from the vocabulary's order and the table itself.

    Training leaves its mark on a table: rows of frequent words are shorter and lie elsewhere than
    those of rare ones. A ridge regression of the logarithm of `frequency` on the row, its length
    and the logarithm of its length tells how often a row looks to be used. Rows are ranked by the
    geometric mean of that and of `frequency`, whose values are given out anew in this order. So a
    full stop whose id says nothing, because it stands in an alphabet, gets its due.

    Parameters
    ----------
    matrix
        Tensor A, n×d, float64.
    frequency
        Tensor n > 0.

    Returns
    -------
    Tensor
        n float64 > 0 of sum 1.
    """
    logs = frequency.clamp(min=1e-300).log()
    features = _features(matrix)
    square = features.T @ features
    ridge = (RIDGE * square.diagonal().mean() or 1.0) * torch.eye(len(square)).to(square)
    slopes = torch.linalg.solve(square + ridge, features.T @ (logs - logs.mean()))
    fitted = (features @ slopes + logs.mean()).clamp(min=logs.min(), max=logs.max())
    order = torch.argsort(logs + fitted, stable=True)
    return torch.empty_like(logs).index_put_((order,), logs.sort().values).softmax(dim=0)


def _features(matrix: Tensor) -> Tensor:
    """Return the centred rows, lengths and logarithms of lengths, n×(d + 2)."""
    rows = matrix / unit_of(matrix)
    length = rows.norm(dim=1, keepdim=True)
    length = length / length.mean().clamp(min=1e-300)
    features = torch.cat([rows, length, length.clamp(min=1e-3).log()], dim=1)
    features -= features.mean(dim=0)
    scale = features[:, :-2].square().mean().sqrt().clamp(min=1e-300)
    features[:, :-2] /= scale
    return features


def smoothed_counts(counts: Tensor, prior: Tensor, share: float = PRIOR_SHARE) -> Tensor:
    """Return counts + share·N·prior, with N the sum of the counts, scaled to a sum of 1.

    This is the mean of the posterior under a Dirichlet prior: words that the text does not hold
    keep the order that the vocabulary gives them.

    Parameters
    ----------
    counts
        Tensor n ≥ 0.
    prior
        Tensor n > 0 of sum 1.
    share
        Weight of the prior in texts.
    """
    total = counts.sum()
    return (counts / total + share * prior) / (1 + share) if total > 0 else prior
