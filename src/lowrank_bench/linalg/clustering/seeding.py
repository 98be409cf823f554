"""Labels from which projective clustering starts."""

import torch
from torch import Tensor

from lowrank_bench.linalg.clustering.subspaces import Fitter, Rows


def random_start(rows: int, clusters: int, generator: torch.Generator) -> Tensor:
    """Return labels of n rows in k clusters whose sizes differ by at most one."""
    return torch.randperm(rows, generator=generator) % clusters


def residual_start(rows: Rows, clusters: int, dimension: int, generator: torch.Generator) -> Tensor:
    """Return labels of the nearest of k subspaces, each fitted to what the earlier ones miss.

    As k-means++ draws its centres: the first subspace is that of all rows, each of the others
    that of n/k rows (at least j) drawn with a probability that is proportional to the squared
    distance from the nearest one so far.
    """
    count = len(rows.matrix)
    labels = torch.zeros_like(rows.squares, dtype=torch.int64)
    subspaces, _ = Fitter(rows, 1, dimension).fit(labels, None, rows.squares)
    squared = rows.squared_distances(subspaces, labels)
    for cluster in range(1, clusters):
        drawn = _draw(squared, min(count, max(dimension, count // clusters)), generator)
        sample = Rows(rows.matrix[drawn])
        first = torch.zeros_like(drawn)
        subspaces, _ = Fitter(sample, 1, dimension).fit(first, None, sample.squares)
        other = rows.squared_distances(subspaces, torch.zeros_like(labels))
        labels[other < squared] = cluster
        squared = torch.minimum(squared, other)
    return labels


def _draw(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return distinct indices, drawn one after another in proportion to the weights."""
    noise = torch.rand(len(weights), generator=generator, dtype=torch.float64)
    # The smallest of exponential variables with these rates (Efraimidis and Spirakis, 2006).
    return (-noise.log().to(weights) / weights).argsort(stable=True)[:count]
