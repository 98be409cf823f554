"""Lewis weights: how much each row of a matrix matters to ‖Ax‖_p, and the ellipsoid they give."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.fixed_point import Evaluation, Solution, solve
from lowrank_bench.linalg.gram import (
    CHUNK,
    gram,
    largest_entry,
    numerical_rank,
    right_singular,
    squared_norms,
)

# Condition of a Gram matrix up to which it serves as it is: float32 then has a digit to spare.
MILD = 1e5
# Least squared ratio of the Cholesky factor's diagonal: beyond, float64 loses too much.
LOST = 1e-10
ROUGH = 1e-4


@dataclass(frozen=True)
class LewisWeights:
    """ℓp Lewis weights of an n×d matrix A and the quadratic form that they define.

    Attributes
    ----------
    p
        The exponent.
    weights
        Tensor w of n, float64, with w_i = (a_iᵀ M⁻¹ a_i)^{p/2}; zero for rows of zeros. Their sum
        is the rank of A.
    root
        Tensor r×d, float64, with M = rootᵀ root and r the rank of A.
    iterations
        Passes over the matrix.
    residual
        Largest |log w_i − log (a_iᵀ M⁻¹ a_i)^{p/2}|: the relative error of the equation above.
    """

    p: float
    weights: Tensor
    root: Tensor
    iterations: int
    residual: float

    @property
    def rank(self) -> int:
        """Return the numerical rank of A."""
        return self.root.shape[0]

    @property
    def form(self) -> Tensor:
        """Return M = Aᵀ W^{1−2/p} A, d×d."""
        return self.root.T @ self.root


class _IllConditionedError(Exception):
    """The coordinates lose too many digits; take others."""


def lewis_weights(
    matrix: Tensor, p: float, tolerance: float = 1e-7, limit: int = 300
) -> LewisWeights:
    """Return the ℓp Lewis weights of a matrix, 1 ≤ p < 4.

    They are the only w > 0 with w_i = (a_iᵀ M⁻¹ a_i)^{p/2}, M = Aᵀ W^{1−2/p} A. With Q(x) = xᵀMx,
    √Q(x) ≤ ‖Ax‖_p ≤ r^{1/p−1/2} √Q(x) for p ≤ 2, and r^{1/p−1/2} √Q(x) ≤ ‖Ax‖_p ≤ √Q(x) for
    p ≥ 2, r = rank(A).

    The fixed-point map contracts the logarithms by |1 − p/2| < 1; `fixed_point.solve` speeds it up
    without losing that guarantee. One pass over A costs about 2·n·d² operations. The first passes
    run in float32 on rows of length one; the last ones, which decide, in float64. Where A is too
    ill-conditioned for its Gram matrix, the passes run on an orthonormal basis of its columns; the
    form in that basis has a condition of at most (n·d)^{|2/p−1|}.

    Parameters
    ----------
    matrix
        Tensor A, n×d, float64.
    p
        Exponent, 1 ≤ p < 4.
    tolerance
        Accepted `residual`.
    limit
        Most passes in float64.

    Raises
    ------
    LowRankError
        When p is out of range, an entry is not finite, or the residual stays above `tolerance`.

    References
    ----------
    Lewis, "Finite dimensional subspaces of L_p", Studia Mathematica 63 (1978).
    Cohen and Peng, "ℓp row sampling by Lewis weights", STOC 2015, section 3.
    """
    if not 1 <= p < 4:
        raise LowRankError(f"Lewis weights need 1 <= p < 4, not p = {p:g}")
    if not math.isfinite(largest_entry(matrix)):
        raise LowRankError("Lewis weights need a matrix of finite numbers")
    rows, columns = matrix.shape
    if rows >= columns:
        try:
            return _in_coordinates(matrix, None, p, tolerance, limit)
        except _IllConditionedError:
            pass
    values, vectors = right_singular(matrix)
    rank = numerical_rank(values, rows, columns)
    if rank == 0:
        return LewisWeights(p, matrix.new_zeros(rows), matrix.new_zeros(0, columns), 0, 0.0)
    values, vectors = values[:rank], vectors[:, :rank]
    back = values[:, None] * vectors.T
    try:
        return _in_coordinates(_orthonormal(matrix, values, vectors), back, p, tolerance, limit)
    except _IllConditionedError:
        raise LowRankError(
            f"the Lewis form for p = {p:g} of this {rows}x{columns} matrix is singular in float64; "
            "take a smaller p, or drop its nearly dependent columns"
        ) from None


def _orthonormal(matrix: Tensor, values: Tensor, vectors: Tensor) -> Tensor:
    """Return A V Σ⁻¹, n×r; scaled first so that no entry leaves the range of float64."""
    peak = float(values[0])
    inverse = vectors * (peak / values)
    basis = matrix.new_empty(len(matrix), len(values))
    for start in range(0, len(matrix), CHUNK):
        part = slice(start, start + CHUNK)
        torch.matmul(matrix[part] / peak, inverse, out=basis[part])
    return basis


class _Rows:
    """The nonzero rows of a matrix as lengths and directions.

    Attributes
    ----------
    live
        Indices of the nonzero rows.
    log_length
        Logarithms of their lengths.
    """

    def __init__(self, matrix: Tensor) -> None:
        length = torch.linalg.vector_norm(matrix, dim=1)
        odd = ~((length > 1e-140) & (length < 1e140))
        if odd.any():  # zero, or its square may be out of range
            part = matrix[odd]
            peak = part.abs().amax(dim=1, keepdim=True)
            peak = torch.where(peak > 0, peak, 1.0)
            length[odd] = torch.linalg.vector_norm(part / peak, dim=1) * peak[:, 0]
        self.matrix = matrix
        self.live = length.nonzero()[:, 0]
        self.log_length = length[self.live].log()
        self.inverse_length = torch.where(length > 0, 1 / length, 0.0)

    def directions(self) -> Tensor:
        """Return the rows at length one, n×d float32."""
        unit = self.matrix.new_empty(self.matrix.shape, dtype=torch.float32)
        for start in range(0, len(unit), CHUNK):
            part = slice(start, start + CHUNK)
            unit[part] = self.matrix[part] * self.inverse_length[part, None]
        return unit


class _Map:
    """The fixed-point map on u = log w over the nonzero rows.

    Parameters
    ----------
    rows
        Lengths and directions of the rows.
    p
        Exponent.
    directions
        The directions as a float32 matrix, or None to work on the matrix itself.
    """

    def __init__(self, rows: _Rows, p: float, directions: Tensor | None = None) -> None:
        self.rows, self.p = rows, p
        self.data = rows.matrix if directions is None else directions
        self.unit = rows.inverse_length if directions is None else None

    def form(self, log_weights: Tensor) -> tuple[Tensor, Tensor, float]:
        """Return M / e^{2K} in float64, the logarithms of the rows' scales in it, and K."""
        # Row i enters M as w_i^{1−2/p} a_i a_iᵀ; K keeps the largest of them near one.
        logs = (0.5 - 1 / self.p) * log_weights + self.rows.log_length
        shift = float(logs.max())
        logs = logs - shift
        scale = logs.new_zeros(len(self.data))
        scale[self.rows.live] = logs.exp()
        scale = scale if self.unit is None else scale * self.unit
        return gram(self.data, scale.to(self.data.dtype)).double(), logs, shift

    def __call__(self, log_weights: Tensor) -> Evaluation:
        form, logs, shift = self.form(log_weights)
        factor, failed = torch.linalg.cholesky_ex(form)
        spread = factor.diagonal().aminmax()
        if failed or not (spread.min / spread.max) ** 2 > LOST:
            raise _IllConditionedError
        identity = torch.eye(len(factor)).to(factor)
        inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
        heights = squared_norms(self.data, inverse.to(self.data.dtype), self.unit)
        log_heights = heights[self.rows.live].double().log()
        leverage = (log_heights + 2 * logs).exp().clamp(max=1.0)
        squared_radius = log_heights + 2 * (self.rows.log_length - shift)
        return Evaluation(self.p / 2 * squared_radius, leverage, (factor, shift))

    def mild(self, log_weights: Tensor) -> bool:
        """Return whether the form at a point is well enough conditioned for float32."""
        squares = torch.linalg.eigvalsh(self.form(log_weights)[0])
        return bool(squares[0] * MILD >= squares[-1])


def _in_coordinates(
    matrix: Tensor, back: Tensor | None, p: float, tolerance: float, limit: int
) -> LewisWeights:
    """Solve for a matrix of full column rank; `back` leads from its coordinates to the user's."""
    rows = _Rows(matrix)
    point = p * rows.log_length  # exact when the form is a multiple of the identity
    point = point - point.logsumexp(0) + math.log(matrix.shape[1])
    slope, passes = 1 - p / 2, 0
    if p != 2:
        point, passes = _warm_start(rows, p, point, must_be_mild=back is None)
    found = solve(_Map(rows, p), point, slope, tolerance, limit)
    if p == 2 and not found.converged:  # the map is constant: its image is the fixed point
        raise AssertionError
    _check(found, p, tolerance)
    factor, shift = found.extra
    root = factor.T * math.exp(shift)
    weights = matrix.new_zeros(len(matrix))
    weights[rows.live] = found.point.exp()
    return LewisWeights(
        p, weights, root if back is None else root @ back, passes + found.evaluations, found.residual
    )
