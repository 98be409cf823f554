"""Initial labels for projective clustering."""

import torch
from torch import Tensor

from lowrank_bench.linalg.clustering.subspaces import Fitter, Rows


def random_start(rows: int, clusters: int, generator: torch.Generator) -> Tensor:
    """Return random labels of n rows in k clusters whose sizes differ by at most one."""
    return torch.randperm(rows, generator=generator) % clusters


def residual_start(rows: Rows, clusters: int, dimension: int, generator: torch.Generator) -> Tensor:
    """Return the labels of the nearest of k subspaces, seeded in the manner of k-means++.

    The first subspace is fitted to all rows. Each further one is fitted to n/k rows (at least j)
    drawn with probability proportional to the squared distance from the nearest subspace so far.
    """
    count = len(rows.matrix)
    labels = torch.zeros_like(rows.squares, dtype=torch.int64)
    subspaces, _ = Fitter(rows, 1, dimension).fit(labels, None, rows.squares)
    squared = rows.squared_distances(subspaces, labels)
    for cluster in range(1, clusters):
        # Rows that the subspaces so far miss are the most likely sample for the next one.
        drawn = _draw(squared, min(count, max(dimension, count // clusters)), generator)
        sample = Rows(rows.matrix[drawn])
        first = torch.zeros_like(drawn)
        subspaces, _ = Fitter(sample, 1, dimension).fit(first, None, sample.squares)
        other = rows.squared_distances(subspaces, torch.zeros_like(labels))
        # Rows that are nearer to the new subspace join its cluster.
        labels[other < squared] = cluster
        squared = torch.minimum(squared, other)
    return labels


def _draw(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw distinct indices, one after another, in proportion to the weights."""
    noise = torch.rand(len(weights), generator=generator, dtype=torch.float64)
    # Exponential variables with the weights as rates: the indices of the smallest ones are such a
    # sample (Efraimidis and Spirakis, 2006).
    return (-noise.log().to(weights) / weights).argsort(stable=True)[:count]
