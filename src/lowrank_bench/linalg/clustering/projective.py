"""Projective clustering: k subspaces such that each row of a matrix is near one of them.

For q < 2 the fit is one step of majorization: rows count with weight
(distance² + ε²)^{q/2−1}, which cannot raise Σ weight_i · (distance_i² + ε²)^{q/2}. The length
ε is 1e-6 of the rows' root mean square length.

A cluster whose rows span less than j dimensions (an empty one too) takes in the directions of
the worst-fitted rows, which then move to it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.clustering.moves import better_labels
from lowrank_bench.linalg.clustering.partition import consecutive_parts, leading_vectors
from lowrank_bench.linalg.clustering.seeding import random_start, residual_start
from lowrank_bench.linalg.clustering.subspaces import Fitter, Rows, Subspaces
from lowrank_bench.linalg.gram import largest_entry, unit_of

SMOOTHING = 1e-6  # of the rows' root mean square length


@dataclass(frozen=True)
class Clustering:
    """A (k, j)-projective clustering of the rows of an n×d matrix.

    Attributes
    ----------
    labels
        Tensor n, int64: the cluster of each row, 0..k−1.
    bases
        Tensor k×d×j, float64: orthonormal columns, those of a cluster with q = 2 its leading right
        singular vectors. Where the rows of a cluster span less than j dimensions, the rest of its
        columns do not matter to them.
    cost
        Σ weight_i · distance_i^q from the subspaces that the labels name.
    costs
        The cost after each step; never more than before, up to rounding. For q < 2 it is the
        smoothed one.
    restart_costs
        The last cost of every start.
    steps
        Steps of the best start.
    converged
        Whether the best start stopped by itself, before the most steps.
    """

    labels: Tensor
    bases: Tensor
    cost: float
    costs: tuple[float, ...]
    restart_costs: tuple[float, ...]
    steps: int
    converged: bool


def projective_clustering(
    matrix: Tensor,
    clusters: int,
    dimension: int,
    *,
    q: float = 2.0,
    restarts: int = 10,
    steps: int = 50,
    tolerance: float = 1e-5,
    seed: int = 0,
    weights: Tensor | None = None,
    starts: Sequence[Tensor] | None = None,
) -> Clustering:
    """Find k linear subspaces of dimension j that make Σ weight_i · distance_i^q small.

    Each step fits a subspace to the rows of every cluster, then moves each row to the nearest
    subspace. Neither can raise the cost; the best of several starts is kept. The least cost of
    all is NP-hard to find, for q = 2 and any k ≥ 2.

    Parameters
    ----------
    matrix
        Tensor A, n×d; converted to float64.
    clusters
        k, 1 ≤ k ≤ n.
    dimension
        j, 1 ≤ j ≤ d.
    q
        Power of the distance, 1 ≤ q ≤ 2.
    restarts
        Number of starts: random balanced partitions, the last of several by residuals instead,
        and of three or more the first into consecutive parts.
    steps, tolerance
        A start ends after so many steps, or when no row moves, or a step lowers its cost by no more
        than this fraction.
    seed
        Of the starts.
    weights
        Tensor n ≥ 0, one by default. An integer weight costs as much as that many copies.
    starts
        Tensors n of labels to start from, in place of `restarts`.

    Raises
    ------
    LowRankError
        When a parameter is out of range, an entry not finite, or rows are fewer than clusters.

    References
    ----------
    Maalouf, Lang, Rus, Feldman, "Deep Learning Meets Projective Clustering", ICLR 2021, section 2.
    """
    _check(matrix, clusters, dimension, q, restarts, steps)
    matrix, unit = _in_units(matrix.double())
    search = _Search(matrix, clusters, dimension, q, _checked_weights(weights, matrix))
    given = None if starts is None else [_checked_start(s, matrix, clusters) for s in starts]
    starts = search.starts(restarts, seed) if given is None else given
    found = [search.run(start, steps, tolerance) for start in starts]
    costs = [clustering.costs[-1] for clustering in found]
    best = search.finish(found[costs.index(min(costs))])
    return _scaled(best, costs, unit**q)


def _in_units(matrix: Tensor) -> tuple[Tensor, float]:
    """Return a matrix and the unit that it was divided by, 1 where no power can overflow."""
    unit = unit_of(matrix)
    return (matrix, 1.0) if 1e-100 < unit < 1e100 else (matrix / unit, unit)


def _scaled(found: Clustering, restart_costs: list[float], scale: float) -> Clustering:
    """Return the clustering with costs in the units of the matrix as given."""
    return replace(
        found,
        cost=found.cost * scale,
        costs=tuple(cost * scale for cost in found.costs),
        restart_costs=tuple(cost * scale for cost in restart_costs),
    )


class _Search:
    """Local search from given labels.

    Parameters
    ----------
    matrix
        Tensor A, n×d, float64.
    clusters, dimension, q
        k, j and the power of the distance.
    weights
        Tensor n, or None for ones.
    """

    def __init__(
        self, matrix: Tensor, clusters: int, dimension: int, q: float, weights: Tensor | None
    ) -> None:
        self.rows, self.weights, self.q = Rows(matrix), weights, q
        self.clusters, self.dimension = clusters, dimension
        self.scale = None if weights is None else weights.sqrt()
        self.smoothing = SMOOTHING**2 * (float(self.rows.squares.mean()) or 1.0)

    def starts(self, restarts: int, seed: int) -> list[Tensor]:
        """Return random balanced labels; the last of several by residuals, the first of more cut.

        The cut into consecutive parts is worth a start where rows are in an order that means
        something, as in a vocabulary; and so no result is worse than an SVD of each such part.
        """
        generator = torch.Generator().manual_seed(seed)
        size, device = len(self.rows.matrix), self.rows.matrix.device
        cut, seeded = restarts > 2, restarts > 1
        labels = [consecutive_parts(size, self.clusters)] if cut else []
        for _ in range(restarts - cut - seeded):
            labels.append(random_start(size, self.clusters, generator))
        if seeded:
            labels.append(residual_start(self.rows, self.clusters, self.dimension, generator))
        return [start.to(device) for start in labels]

    def run(self, labels: Tensor, steps: int, tolerance: float) -> Clustering:
        """Return what the steps from `labels` lead to, with the last of `costs` as its cost."""
        search = self._squares if self.q == 2 else self._powers
        return search(labels, steps, tolerance)

    def _squares(self, labels: Tensor, steps: int, tolerance: float) -> Clustering:
        fitter = Fitter(self.rows, self.clusters, self.dimension)
        costs: list[float] = []
        squared, converged = self.rows.squares, False  # as if the first subspaces were {0}
        for _ in range(steps):
            subspaces, cost = fitter.fit(labels, self.scale, self._counted(squared))
            costs.append(cost)
            moved, squared = self.rows.nearest(subspaces, labels)
            if _stalled(costs, tolerance) or bool((moved == labels).all()):
                moved = better_labels(
                    self.rows.matrix, labels, self.clusters, self.dimension, self.scale
                )
                converged = bool((moved == labels).all())
            if converged:
                break
            labels = moved
        else:
            subspaces, cost = fitter.fit(labels, self.scale, self._counted(squared))
            costs.append(cost)
        return _result(labels, subspaces, costs, converged)

    def _powers(self, labels: Tensor, steps: int, tolerance: float) -> Clustering:
        fitter = Fitter(self.rows, self.clusters, self.dimension)
        costs: list[float] = []
        squared, converged = self.rows.squares, False  # as if the first subspaces were {0}
        for _ in range(steps):
            pull = (squared + self.smoothing) ** (self.q / 4 - 0.5)
            scale = pull if self.scale is None else pull * self.scale
            fitter.forget()
            subspaces, _ = fitter.fit(labels, scale, self._counted(squared))
            labels, _ = self.rows.nearest(subspaces, labels)
            squared = self.rows.squared_distances(subspaces, labels)
            costs.append(self._total((squared + self.smoothing) ** (self.q / 2)))
            converged = _stalled(costs, tolerance)
            if converged:
                break
        return _result(labels, subspaces, costs, converged)

    def finish(self, found: Clustering) -> Clustering:
        """Return it with its exact cost and, for q = 2, singular vectors to full accuracy."""
        bases = found.bases
        if self.q == 2:
            bases = leading_vectors(
                self.rows.matrix, found.labels, self.clusters, self.dimension, self.scale
            )
        squared = self.rows.squared_distances(Subspaces(bases, None), found.labels)
        return replace(found, bases=bases, cost=self._total(squared ** (self.q / 2)))

    def _counted(self, squared: Tensor) -> Tensor:
        """Return 0 for rows without weight, so that no subspace is spent on them."""
        return squared if self.weights is None else squared * (self.weights > 0)

    def _total(self, values: Tensor) -> float:
        return float(values.sum() if self.weights is None else values @ self.weights)


def _stalled(costs: list[float], tolerance: float) -> bool:
    return len(costs) > 1 and costs[-2] - costs[-1] <= tolerance * costs[-2]


def _result(
    labels: Tensor, subspaces: Subspaces, costs: list[float], converged: bool
) -> Clustering:
    steps = tuple(costs)
    return Clustering(labels, subspaces.bases, costs[-1], steps, (), len(steps), converged)


def _check(
    matrix: Tensor, clusters: int, dimension: int, q: float, restarts: int, steps: int
) -> None:
    rows, columns = matrix.shape
    if not 1 <= clusters <= rows:
        raise LowRankError(f"{clusters} clusters of {rows} rows are not possible; take 1..{rows}")
    if not 1 <= dimension <= columns:
        raise LowRankError(
            f"subspaces of dimension {dimension} are not possible in {columns} columns; "
            f"take 1..{columns}"
        )
    if not 1 <= q <= 2:
        raise LowRankError(f"projective clustering needs 1 <= q <= 2, not q = {q:g}")
    if restarts < 1 or steps < 1:
        raise LowRankError("projective clustering needs at least one start and one step")
    if not math.isfinite(largest_entry(matrix)):
        raise LowRankError("projective clustering needs a matrix of finite numbers")


def _checked_weights(weights: Tensor | None, matrix: Tensor) -> Tensor | None:
    if weights is None:
        return None
    weights = weights.to(matrix)
    if weights.shape != matrix.shape[:1] or not (weights.isfinite() & (weights >= 0)).all():
        raise LowRankError(f"weights must be {len(matrix)} finite numbers >= 0, one a row")
    return weights


def _checked_start(start: Tensor, matrix: Tensor, clusters: int) -> Tensor:
    labels = torch.as_tensor(start).to(matrix.device, torch.int64)
    fits = labels.shape == matrix.shape[:1]
    if not fits or labels.min() < 0 or labels.max() >= clusters:
        raise LowRankError(f"a start must be {len(matrix)} labels in 0..{clusters - 1}, one a row")
    return labels
