"""The subspace nearest to the rows by the sum of distances instead of their squares."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank_bench.linalg.decomposition import complete
from lowrank_bench.linalg.gram import CHUNK, right_singular, unit_of

FIRST, LAST, FALL = 1e-1, 1e-6, 0.1  # the smoothing ε, in units of the median row length


@dataclass(frozen=True)
class Subspace:
    """A subspace through a point, and how far a matrix n×d is from it.

    Attributes
    ----------
    basis
        Tensor d×k with orthonormal columns.
    mean
        Tensor d, the point; zeros unless asked for.
    error
        (Σ_i ‖(a_i − mean)(I − basis·basisᵀ)‖₂^q)^{1/q}.
    history
        The smoothed objective Σ(‖·‖² + ε²)^{q/2} for A scaled to entries of at most one, before
        and after each step; it never rises.
    steps
        Steps made.
    """

    basis: Tensor
    mean: Tensor
    error: float
    history: tuple[float, ...]
    steps: int


def nearest_subspace(
    matrix: Tensor,
    basis: Tensor,
    q: float,
    steps: int = 30,
    tolerance: float = 1e-5,
    center: bool = False,
) -> Subspace:
    """Lower Σ‖a_i − a_i V Vᵀ‖₂^q over the subspace V, from a first one.

    With r_i the distance of row i, the objective Σ(r_i² + ε²)^{q/2} lies below the weighted sum of
    squares that touches it at the present subspace, with weights (r_i² + ε²)^{q/2−1}. The k
    leading eigenvectors of the weighted Gram matrix minimise that sum (about the weighted mean if
    `center`), so that each step lowers the objective; so does a smaller ε. The subspace with the
    least unsmoothed error is kept, the first one included.

    A step costs a Gram matrix, the eigenvectors of a d×d matrix and the distances,
    n·d·(9d/4 − 2k) operations.

    Parameters
    ----------
    matrix
        Tensor A, n×d, float64, finite.
    basis
        Tensor d×k with orthonormal columns.
    q
        Exponent of the distances, 1 ≤ q < 2.
    steps
        Most steps.
    tolerance
        Stop when ε is at its end and a step lowers the objective by less than this part of it.
    center
        Whether the subspace may miss the origin.

    References
    ----------
    Ding, Zhou, He, Zha, "R1-PCA", ICML 2006; Lerman and Maunu, "Fast, robust and non-convex
    subspace recovery", Information and Inference 7 (2018), for the smoothed steps.
    """
    unit = unit_of(matrix)
    search = _Search(matrix / unit, basis, q, center)
    done = 0
    for epsilon in _falling(steps):
        before, after = search.step(epsilon)
        done += 1
        if epsilon <= LAST and before - after <= tolerance * before:
            break
    axes, mean = search.best
    return Subspace(axes, mean * unit, search.error * unit, tuple(search.history), done)


class _Search:
    """A subspace on its way, with the distances of the rows from it."""

    def __init__(self, matrix: Tensor, basis: Tensor, q: float, center: bool) -> None:
        self.matrix, self.rank, self.q, self.center = matrix, basis.shape[1], q, center
        lengths = torch.linalg.vector_norm(matrix, dim=1)
        self.scale = float(lengths[lengths > 0].median()) if lengths.any() else 1.0
        self.history: list[float] = []
        self.error = math.inf
        self._move(complete(basis, matrix.shape[1]), matrix.new_zeros(matrix.shape[1]))

    def _move(self, axes: Tensor, mean: Tensor) -> None:
        """Go to the span of the first `rank` of d orthonormal columns."""
        others = axes[:, self.rank :]  # the distance along them, without a difference of squares
        parts = [
            torch.linalg.vector_norm((rows - mean) @ others, dim=1)
            for rows in self.matrix.split(CHUNK)
        ]
        self.distances = torch.cat(parts)
        error = float(self.distances.pow(self.q).sum()) ** (1 / self.q)
        if error < self.error:
            self.best, self.error = (axes[:, : self.rank], mean), error

    def _objective(self, epsilon: float) -> float:
        return float((self.distances.square() + epsilon**2).pow(self.q / 2).sum())

    def step(self, part: float) -> tuple[float, float]:
        """Lower the objective for ε = `part` of the median length; return it before and after."""
        epsilon = part * self.scale
        before = self._objective(epsilon)
        weights = (1 + (self.distances / epsilon).square()).pow(self.q / 2 - 1)
        mean = self.matrix.new_zeros(self.matrix.shape[1])
        if self.center:
            mean = weights @ self.matrix / weights.sum()
        _, axes = right_singular((self.matrix - mean) * weights.sqrt()[:, None])
        self._move(complete(axes, self.matrix.shape[1]), mean)
        after = self._objective(epsilon)
        self.history += [before, after]
        return before, after


def _falling(steps: int) -> Iterator[float]:
    epsilon = FIRST
    for _ in range(steps):
        yield epsilon
        epsilon = max(LAST, epsilon * FALL)
