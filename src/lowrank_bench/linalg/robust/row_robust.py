"""The subspace nearest to the rows by the sum of distances, not of squared distances."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank_bench.linalg.decomposition import complete
from lowrank_bench.linalg.gram import CHUNK, right_singular
from lowrank_bench.linalg.units import unit_of

FIRST, LAST, FALL = 1e-1, 1e-6, 0.1  # the smoothing ε, in units of the median row length


@dataclass(frozen=True)
class Subspace:
    """A subspace through a point, and the distance of a matrix n×d from it.

    Attributes
    ----------
    basis
        Tensor d×k with orthonormal columns.
    mean
        Tensor d, the point; zeros without `center`.
    error
        (Σ_i ‖(a_i − mean)(I − basis·basisᵀ)‖₂^q)^{1/q}.
    history
        The smoothed objective Σ(‖·‖² + ε²)^{q/2} for A scaled to entries of at most one, before
        and after each step; non-increasing.
    steps
        Number of steps.
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
    """Lower Σ‖a_i − a_i V Vᵀ‖₂^q over the subspace V, from an initial one.

    Let r_i be the distance of row i. The objective Σ(r_i² + ε²)^{q/2} is majorized by the weighted
    sum of squares with the weights (r_i² + ε²)^{q/2−1} that touches it at the current subspace. The
    k leading eigenvectors of the weighted Gram matrix (about the weighted mean with `center`)
    minimise that sum, so each step lowers the objective, and so does a smaller ε. The subspace with
    the smallest unsmoothed error is returned, which may be the initial one.

    A step computes a Gram matrix, the eigenvectors of a d×d matrix and the distances, in
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
        Largest number of steps.
    tolerance
        Stop when ε has its final value and a step lowers the objective by at most this fraction.
    center
        Whether the subspace may be affine, that is, not contain the origin.

    References
    ----------
    Ding, Zhou, He, Zha, "R1-PCA", ICML 2006; Lerman and Maunu, "Fast, robust and non-convex
    subspace recovery", Information and Inference 7 (2018), for the smoothed steps.
    """
    unit = unit_of(matrix)
    # Entries of at most 2, so that no power of a distance over- or underflows.
    search = _Search(matrix / unit, basis, q, center)
    done = 0
    for epsilon in _falling(steps):
        before, after = search.step(epsilon)
        done += 1
        # A stage with a larger ε only leads here, so its small gains do not end the search.
        if epsilon <= LAST and before - after <= tolerance * before:
            break
    axes, mean = search.best
    return Subspace(axes, mean * unit, search.error * unit, tuple(search.history), done)


class _Search:
    """The current subspace, with the distances of the rows from it."""

    def __init__(self, matrix: Tensor, basis: Tensor, q: float, center: bool) -> None:
        self.matrix, self.rank, self.q, self.center = matrix, basis.shape[1], q, center
        lengths = torch.linalg.vector_norm(matrix, dim=1)
        self.scale = float(lengths[lengths > 0].median()) if lengths.any() else 1.0
        self.history: list[float] = []
        self.error = math.inf
        self._move(complete(basis, matrix.shape[1]), matrix.new_zeros(matrix.shape[1]))

    def _move(self, axes: Tensor, mean: Tensor) -> None:
        """Move to the span of the first `rank` of d orthonormal columns."""
        # Measured along the other columns, distances involve no cancelling difference of squares.
        others = axes[:, self.rank :]
        parts = [
            torch.linalg.vector_norm((rows - mean) @ others, dim=1)
            for rows in torch.split(self.matrix, CHUNK)
        ]
        self.distances = torch.cat(parts)
        error = float(self.distances.pow(self.q).sum()) ** (1 / self.q)
        if error < self.error:
            self.best, self.error = (axes[:, : self.rank], mean), error

    def _objective(self, epsilon: float) -> float:
        return float((self.distances.square() + epsilon**2).pow(self.q / 2).sum())

    def step(self, part: float) -> tuple[float, float]:
        """Lower the objective for ε = `part`·median length; return it before and after."""
        epsilon = part * self.scale
        before = self._objective(epsilon)
        # Weights of the majorizer, up to a common factor: far rows count less.
        weights = (1 + (self.distances / epsilon).square()).pow(self.q / 2 - 1)
        mean = self.matrix.new_zeros(self.matrix.shape[1])
        if self.center:
            mean = weights @ self.matrix / weights.sum()
        # The best subspace for these weights: the leading singular vectors of √w·(A − mean).
        _, axes = right_singular((self.matrix - mean) * weights.sqrt()[:, None])
        self._move(complete(axes, self.matrix.shape[1]), mean)
        after = self._objective(epsilon)
        self.history += [before, after]
        return before, after


def _falling(steps: int) -> Iterator[float]:
    """Yield ε of each step in units of the median length."""
    epsilon = FIRST
    for _ in range(steps):
        yield epsilon
        epsilon = max(LAST, epsilon * FALL)
