"""Lewis weights: how much each row of a matrix matters to ‖Ax‖_p, and the ellipsoid they give."""

import math
from dataclasses import dataclass, replace

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

# Most accepted ‖M‖·‖M⁻¹‖ (Frobenius norms, an upper bound of the condition of M): so that rounding
# leaves a digit in float32, which only prepares, and seven in float64, which decides.
MILD = {torch.float32: 1e6, torch.float64: 1e9}
# In an orthonormal basis the condition is bounded, and there are no better coordinates.
LAST_RESORT = 1e12
ROUGH = 3e-5  # residual up to which float32 prepares; the next point is then mostly good to 1e-6


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
        Largest |log w_i − log (a_iᵀ M⁻¹ a_i)^{p/2}|: the relative error of the equation above, for
        A up to rounding.
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
    matrix: Tensor, p: float, tolerance: float = 1e-6, limit: int = 300
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
        Tensor A, n×d; converted to float64.
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
    matrix = matrix.double()
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
    worst
        Most accepted ‖M‖·‖M⁻¹‖.
    directions
        The directions as a float32 matrix, or None to work on the matrix itself.
    """

    def __init__(
        self, rows: _Rows, p: float, worst: float, directions: Tensor | None = None
    ) -> None:
        self.rows, self.p, self.worst = rows, p, worst
        self.data = rows.matrix if directions is None else directions
        self.unit = rows.inverse_length if directions is None else None

    def __call__(self, log_weights: Tensor) -> Evaluation:
        # Row i enters M as w_i^{1−2/p} a_i a_iᵀ. `shift` keeps the largest of them near one, and
        # the heights are those of rows of length one, so that nothing leaves the float range.
        logs = (0.5 - 1 / self.p) * log_weights + self.rows.log_length
        shift = float(logs.max())
        logs = logs - shift
        factor = self._factor(logs.exp())
        heights = squared_norms(self.data, self._inverse(factor).to(self.data.dtype), self.unit)
        log_heights = heights[self.rows.live].double().log()
        leverage = (log_heights + 2 * logs).exp().clamp(max=1.0)
        image = self.p / 2 * (log_heights + 2 * (self.rows.log_length - shift))
        return Evaluation(image, leverage, (factor, shift))

    def _factor(self, lengths: Tensor) -> Tensor:
        """Return the Cholesky factor of the Gram matrix of rows of these lengths."""
        scale = lengths.new_zeros(len(self.data))
        scale[self.rows.live] = lengths
        scale = scale if self.unit is None else scale * self.unit
        form = gram(self.data, scale.to(self.data.dtype)).double()
        factor, failed = torch.linalg.cholesky_ex(form)
        if failed:
            raise _IllConditionedError
        return factor

    def _inverse(self, factor: Tensor) -> Tensor:
        identity = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
        inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
        norms = (factor @ factor.T).norm() * (inverse.T @ inverse).norm()
        if not norms <= self.worst:
            raise _IllConditionedError
        return inverse


def _in_coordinates(
    matrix: Tensor, back: Tensor | None, p: float, tolerance: float, limit: int
) -> LewisWeights:
    """Solve for a matrix of full column rank; `back` leads from its coordinates to the user's."""
    rows = _Rows(matrix)
    if len(rows.live) < matrix.shape[1]:
        raise _IllConditionedError
    worst = MILD[torch.float64] if back is None else LAST_RESORT
    exact = _Map(rows, p, worst)
    start = p * rows.log_length  # exact when the form is a multiple of the identity
    start = start - start.logsumexp(0) + math.log(matrix.shape[1])
    if p == 2:  # the form does not depend on the weights
        value = exact(start)
        found = Solution(value.image, value.image, value.extra, 0.0, 1, True)
    else:
        start, passes = _prepare(rows, p, start, required=back is None)
        found = solve(exact, start, 1 - p / 2, tolerance, limit)
        found = replace(found, evaluations=found.evaluations + passes)
    if not found.converged:
        raise LowRankError(
            f"Lewis weights for p = {p:g} stopped at residual {found.residual:.1e} after "
            f"{found.evaluations} passes, above {tolerance:g}; accept more, or allow more passes"
        )
    factor, shift = found.extra
    root = factor.T * math.exp(shift)
    weights = matrix.new_zeros(len(matrix))
    weights[rows.live] = found.point.exp()
    root = root if back is None else root @ back
    return LewisWeights(p, weights, root, found.evaluations, found.residual)


def _prepare(rows: _Rows, p: float, start: Tensor, required: bool) -> tuple[Tensor, int]:
    """Return a good start found in float32, and the passes it took; `start` where that fails."""
    rough = _Map(rows, p, MILD[torch.float32], rows.directions())
    try:
        found = solve(rough, start, 1 - p / 2, ROUGH, 100, patient=False)
    except _IllConditionedError:
        if required:
            raise
        return start, 0
    return found.following, found.evaluations
