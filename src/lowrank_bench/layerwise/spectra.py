"""The low-rank approximations of one layer's matrix for all ranks at once, in a chosen metric.

A metric weighs an error E of the matrix W, m×n, as ‖L^{1/2} E R^{1/2}‖: L weighs errors of the
outputs, R errors along the inputs. The best matrix of rank k in it is a projection of W, by Eckart
and Young for L^{1/2} W R^{1/2}.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank_bench.linalg.gram import right_singular

RIDGE = 1e-6  # of a metric, relative to the mean of its diagonal


@dataclass(frozen=True, eq=False)
class Metric:
    """The weights of errors of an m×n matrix.

    Attributes
    ----------
    left
        L, positive semidefinite m×m, or its diagonal m, or None for the identity.
    right
        R, n×n, or its diagonal n, or None.
    scale
        Factor of the squared norm, which makes the errors of different layers comparable.
    """

    left: Tensor | None = None
    right: Tensor | None = None
    scale: float = 1.0


class Spectrum(ABC):
    """Approximations of every rank of one matrix m×n.

    Attributes
    ----------
    squares
        Squared Frobenius error in the metric for ranks 0..min(m, n), times its scale; float64.
    peaks
        Squared spectral errors, in the same way.
    """

    squares: Tensor
    peaks: Tensor

    @abstractmethod
    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """Return (m×k, k×n), float64, for k = `rank`."""


class MetricSpectrum(Spectrum):
    """The best approximations of `matrix` in a metric.

    With L = E Eᵀ and U_k the k leading left singular vectors of Eᵀ W R^{1/2}, the best matrix of
    rank k is E⁻ᵀ U_k U_kᵀ Eᵀ W; R may be singular.

    Parameters
    ----------
    matrix
        W, m×n float64.
    metric
        `RIDGE` makes its left side positive definite.
    """

    def __init__(self, matrix: Tensor, metric: Metric) -> None:
        self.matrix = matrix
        self.root = None if metric.left is None else _root(metric.left)
        # Rank k loses the singular values from k on: their squares add up, the first is the norm.
        squares, self.basis = _left_singular(_times(self.root, matrix, True), metric.right)
        tails = squares.flip(0).cumsum(0).flip(0)
        zero = squares.new_zeros(1)
        self.squares = torch.cat([tails, zero]) * metric.scale
        self.peaks = torch.cat([squares, zero]) * metric.scale

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """Return the factors, scaled so that each column and its row have equal length."""
        leading = self.basis[:, :rank]
        left = leading if self.root is None else _solve(self.root, leading)
        right = leading.T @ _times(self.root, self.matrix, True)
        return balanced(left, right)


def balanced(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Return factors with the same product, each column as long as its row."""
    ratio = right.norm(dim=1) / left.norm(dim=0).clamp(min=1e-300)
    scale = torch.where(ratio > 0, ratio, 1.0).sqrt()
    return left * scale, right / scale.unsqueeze(1)


def _root(left: Tensor) -> Tensor:
    """Return E with E Eᵀ = L plus a ridge: lower triangular m×m, or a diagonal m.

    The ridge grows until L is definite, because sums in float32 may leave it slightly indefinite.
    """
    # Relative to the mean eigenvalue, so that the scale of the inputs does not matter.
    mean = float(left.mean() if left.ndim == 1 else left.diagonal().mean())
    ridge = RIDGE * max(mean, 0.0) or 1.0
    if left.ndim == 1:
        return (left.clamp(min=0) + ridge).sqrt()
    eye = torch.eye(len(left), dtype=left.dtype, device=left.device)
    root: Tensor
    root, failed = torch.linalg.cholesky_ex(left + ridge * eye)
    while failed and ridge < mean:
        ridge *= 10
        root, failed = torch.linalg.cholesky_ex(left + ridge * eye)
    return root


def _times(root: Tensor | None, matrix: Tensor, transposed: bool = False) -> Tensor:
    """Return E X, or Eᵀ X."""
    if root is None:
        return matrix
    if root.ndim == 1:
        return root.unsqueeze(1) * matrix
    return (root.T if transposed else root) @ matrix


def _solve(root: Tensor, matrix: Tensor) -> Tensor:
    """Return E⁻ᵀ X."""
    if root.ndim == 1:
        return matrix / root.unsqueeze(1)
    solution: Tensor = torch.linalg.solve_triangular(root.T, matrix, upper=True)
    return solution


def _left_singular(matrix: Tensor, right: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return squared singular values, falling, and left singular vectors of X R^{1/2}."""
    rows, columns = matrix.shape
    if right is None or rows > columns:
        product = matrix if right is None else _times(_root(right), matrix.T, True).T
        values, basis = right_singular(product.T)
        return values.square(), basis
    # The Gram matrix of the short side needs no root of R, which may be singular.
    image = matrix * right if right.ndim == 1 else matrix @ right
    squares, basis = torch.linalg.eigh(image @ matrix.T)
    return squares.flip(0).clamp(min=0), basis.flip(1)
