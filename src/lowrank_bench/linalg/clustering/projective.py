"""Projective clustering: k subspaces such that each row of a matrix is near one of them.

For q < 2 each fit is one step of majorization: rows get the weight (distance² + ε²)^{q/2−1},
so that Σ weight_i · (distance_i² + ε²)^{q/2} cannot increase. The length ε is 1e-6 of the root
mean square length of the rows.

If the rows of a cluster span fewer than j dimensions (or none, in an empty cluster), its
subspace is extended by the directions of the worst-fitted rows, which then move to it.
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
from lowrank_bench.linalg.units import largest_entry, unit_of

SMOOTHING = 1e-6  # ε as a fraction of the root mean square length of the rows


@dataclass(frozen=True)
class Clustering:
    """A (k, j)-projective clustering of the rows of an n×d matrix.

    Attributes
    ----------
    labels
        Tensor n, int64: the cluster of each row, 0..k−1.
    bases
        Tensor k×d×j, float64: orthonormal columns; for q = 2 the leading right singular vectors
        of each cluster. If the rows of a cluster span fewer than j dimensions, its remaining
        columns are arbitrary.
    cost
        Σ weight_i · distance_i^q, with distances from the subspaces given by the labels.
    costs
        The cost after each step, non-increasing up to rounding; the smoothed cost for q < 2.
    restart_costs
        The final cost of every start.
    steps
        Number of steps of the best start.
    converged
        Whether the best start converged before the step limit.
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
    """Find k linear subspaces of dimension j with a small Σ weight_i · distance_i^q.

    Each step fits a subspace to the rows of every cluster, then moves each row to the nearest
    subspace. Neither can increase the cost. The best of several starts is returned; the global
    minimum is NP-hard, even for q = 2 and any k ≥ 2.

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
        Number of starts: random balanced partitions. With two or more, the last is seeded by
        residuals; with three or more, the first is a cut into consecutive parts.
    steps, tolerance
        A start ends after `steps` steps, when no row moves, or when a step lowers the cost by at
        most this fraction.
    seed
        Random seed of the starts.
    weights
        Tensor n ≥ 0, ones by default. An integer weight is equivalent to that many copies.
    starts
        Label tensors n to start from, in place of `restarts`.

    Raises
    ------
    LowRankError
        If a parameter is out of range, an entry is not finite, or clusters outnumber rows.

    References
    ----------
    Maalouf, Lang, Rus, Feldman, "Deep Learning Meets Projective Clustering", ICLR 2021, section 2.
    """
    _check(matrix, clusters, dimension, q, restarts, steps)
    matrix, unit = _in_units(matrix.double())
    search = _Search(matrix, clusters, dimension, q, _checked_weights(weights, matrix))
    checked = None if starts is None else [_checked_start(s, matrix, clusters) for s in starts]
    starts = search.starts(restarts, seed) if checked is None else checked
    runs = [search.run(start, steps, tolerance) for start in starts]
    costs = [clustering.costs[-1] for clustering in runs]
    best = search.finish(runs[costs.index(min(costs))])
    return _scaled(best, costs, unit**q)


def _in_units(matrix: Tensor) -> tuple[Tensor, float]:
    """Return the matrix and the unit that divides it, 1 if no power of an entry can overflow."""
    unit = unit_of(matrix)
    return (matrix, 1.0) if 1e-100 < unit < 1e100 else (matrix / unit, unit)


def _scaled(clustering: Clustering, restart_costs: list[float], scale: float) -> Clustering:
    """Return the clustering with costs in the units of the original matrix."""
    return replace(
        clustering,
        cost=clustering.cost * scale,
        costs=tuple(cost * scale for cost in clustering.costs),
        restart_costs=tuple(cost * scale for cost in restart_costs),
    )


class _Search:
    """Local search from initial labels.

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
        """Return the initial labels; see `restarts` of `projective_clustering`.

        The cut into consecutive parts is a good start if the order of rows carries information,
        as in a vocabulary. It also makes sure that no result is worse than an SVD of each part.
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
        """Return the clustering reached from `labels`, with the last of `costs` as its cost."""
        search = self._squares if self.q == 2 else self._powers
        return search(labels, steps, tolerance)

    def _squares(self, labels: Tensor, steps: int, tolerance: float) -> Clustering:
        fitter = Fitter(self.rows, self.clusters, self.dimension)
        costs: list[float] = []
        squared, converged = self.rows.squares, False  # distances from the subspace {0}
        for _ in range(steps):
            # The best subspace for fixed labels: the leading singular vectors of each cluster.
            subspaces, cost = fitter.fit(labels, self.scale, self._counted(squared))
            costs.append(cost)
            moved, squared = self.rows.nearest(subspaces, labels)
            if _stalled(costs, tolerance) or bool((moved == labels).all()):
                # At a fixed point of the alternation, moves with a refit may still gain.
                moved = better_labels(
                    self.rows.matrix, labels, self.clusters, self.dimension, self.scale
                )
                converged = bool((moved == labels).all())
            if converged:
                break
            labels = moved
        else:
            # Out of steps: the last labels still need their subspaces.
            subspaces, cost = fitter.fit(labels, self.scale, self._counted(squared))
            costs.append(cost)
        return _result(labels, subspaces, costs, converged)

    def _powers(self, labels: Tensor, steps: int, tolerance: float) -> Clustering:
        fitter = Fitter(self.rows, self.clusters, self.dimension)
        costs: list[float] = []
        squared, converged = self.rows.squares, False  # distances from the subspace {0}
        for _ in range(steps):
            # Square root of the majorizer's weight (distance² + ε²)^{q/2−1}.
            pull = (squared + self.smoothing) ** (self.q / 4 - 0.5)
            scale = pull if self.scale is None else pull * self.scale
            fitter.forget()  # weights change with every step
            subspaces, _ = fitter.fit(labels, scale, self._counted(squared))
            labels, _ = self.rows.nearest(subspaces, labels)
            # `nearest` gives rough distances only; the weights and the cost need exact ones.
            squared = self.rows.squared_distances(subspaces, labels)
            costs.append(self._total((squared + self.smoothing) ** (self.q / 2)))
            converged = _stalled(costs, tolerance)
            if converged:
                break
        return _result(labels, subspaces, costs, converged)

    def finish(self, clustering: Clustering) -> Clustering:
        """Return the clustering with its exact cost and, for q = 2, accurate singular vectors."""
        bases = clustering.bases
        if self.q == 2:
            bases = leading_vectors(
                self.rows.matrix, clustering.labels, self.clusters, self.dimension, self.scale
            )
        squared = self.rows.squared_distances(Subspaces(bases, None), clustering.labels)
        return replace(clustering, bases=bases, cost=self._total(squared ** (self.q / 2)))

    def _counted(self, squared: Tensor) -> Tensor:
        """Return 0 for rows of weight zero, so that no subspace is fitted to them."""
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
        raise LowRankError(f"{clusters} clusters of {rows} rows are not possible; use 1..{rows}")
    if not 1 <= dimension <= columns:
        raise LowRankError(
            f"subspaces of dimension {dimension} are not possible in {columns} columns; "
            f"use 1..{columns}"
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
        raise LowRankError(f"weights must be {len(matrix)} finite numbers >= 0, one per row")
    return weights


def _checked_start(start: Tensor, matrix: Tensor, clusters: int) -> Tensor:
    labels = torch.as_tensor(start).to(matrix.device, torch.int64)
    fits = labels.shape == matrix.shape[:1]
    if not fits or labels.min() < 0 or labels.max() >= clusters:
        raise LowRankError(
            f"a start must be {len(matrix)} labels in 0..{clusters - 1}, one per row"
        )
    return labels
