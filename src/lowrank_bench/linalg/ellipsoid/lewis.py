"""Lewis weights: how much each row of a matrix contributes to ‖Ax‖_p, and their ellipsoid."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.ellipsoid.design import optimal_design
from lowrank_bench.linalg.ellipsoid.fixed_point import Solution, solve
from lowrank_bench.linalg.ellipsoid.lewis_map import (
    MILD,
    Directions,
    IllConditionedError,
    LewisMap,
    Rows,
)
from lowrank_bench.linalg.ellipsoid.quadratic_form import QuadraticForm
from lowrank_bench.linalg.gram import CHUNK, numerical_rank, right_singular, triangular_factor
from lowrank_bench.linalg.units import largest_entry

# Condition accepted in an orthonormal basis, where it is bounded: no other coordinates are better.
LAST_RESORT = 1e12
# Above this exponent convergence slows down, and the form is close to that of p = ∞.
LARGEST = 16.0
# For p = ∞: exponent and residual of the weights to start from.
START_POWER, START_RESIDUAL = 8.0, 0.3
EPS = 2.0**-52
STEPS = 1000  # for p = ∞: steps on a subset of rows per pass over all rows
ROUGH = 3e-5  # residual at which float32 stops; the next point is then usually accurate to 1e-6


@dataclass(frozen=True)
class Rounding:
    """What rounding in float64 can have changed in a Lewis form.

    Attributes
    ----------
    relative
        Bound on the relative error of xᵀMx, and of a_iᵀ M⁻¹ a_i beyond `LewisWeights.residual`.
    matrix
        Bound on ‖A − A'‖_F, where A' is the matrix that the weights belong to.
    root
        Bound on the error of `root` in the Frobenius norm.
    """

    relative: float = 0.0
    matrix: float = 0.0
    root: float = 0.0


@dataclass(frozen=True)
class LewisWeights(QuadraticForm):
    """ℓp Lewis weights of an n×d matrix A and the quadratic form that they define.

    Weights with residual δ > 0 certify each bound of `lewis_weights` up to a factor of
    exp(δ|p − 2|/p²): where the proof uses a_iᵀ M⁻¹ a_i = w_i^{2/p}, this holds up to exp(2δ/p), and
    where it uses Σ w = r, this becomes Σ w ≤ r·exp(2δ/p). For p = ∞ the lower bound is exact, and
    the upper one holds up to exp(δ/2).

    Attributes
    ----------
    p
        The exponent.
    weights
        Tensor w, n, float64, with w_i = (a_iᵀ M⁻¹ a_i)^{p/2}; zero for zero rows. For p = ∞,
        a_iᵀ M⁻¹ a_i = 1 where w_i > 0 and ≤ 1 elsewhere. The weights sum to the rank of A.
    root
        Tensor r×d, float64, with M = rootᵀ root and r the rank of A.
    iterations
        Passes over the matrix.
    residual
        Largest |log w_i − log (a_iᵀ M⁻¹ a_i)^{p/2}|, the relative error of the equation above. It
        holds up to float64 rounding of A, and includes the rounding error of quadratic forms that
        were computed in float32. For p = ∞, the largest log (a_iᵀ M⁻¹ a_i).
    rounding
        What a certificate must add to that.
    """

    p: float
    weights: Tensor
    root: Tensor
    iterations: int
    residual: float
    rounding: Rounding = Rounding()


def lewis_weights(
    matrix: Tensor, p: float, tolerance: float = 1e-6, limit: int = 300, exact: bool = False
) -> LewisWeights:
    """Return the ℓp Lewis weights of a matrix, 1 ≤ p ≤ 16 or p = ∞.

    They are the only w > 0 with w_i = (a_iᵀ M⁻¹ a_i)^{p/2}, M = Aᵀ W^{1−2/p} A. With Q(x) = xᵀMx
    and r = rank(A), √Q(x) ≤ ‖Ax‖_p ≤ r^{1/p−1/2} √Q(x) for p ≤ 2, and
    r^{1/p−1/2} √Q(x) ≤ ‖Ax‖_p ≤ √Q(x) for p ≥ 2. For p = ∞ they are the limit: M = AᵀWA with
    Σ w = r has the largest determinant, and {x : Q(x) ≤ 1} is John's ellipsoid of
    {x : ‖Ax‖_∞ ≤ 1}, the largest inside it. Scaled by √r it contains the body, but it is not the
    smallest that does, which is Löwner's.

    For p < 4 the fixed-point map contracts log w by |1 − p/2| < 1; for p ≥ 4 a damped step ascends
    a concave function. `fixed_point` proves both and accelerates them without losing the guarantee;
    `design.optimal_design` covers p = ∞. One pass over A costs about 2·n·d² operations. The first
    passes run in float32 on unit rows; the last ones, which decide, compute M in float64. If A is
    too ill-conditioned for its Gram matrix, the passes run on an orthonormal basis of its columns,
    in which the form has a condition number of at most (n·d)^{|2/p−1|}.

    Parameters
    ----------
    matrix
        Tensor A, n×d; converted to float64.
    p
        Exponent, 1 ≤ p ≤ 16 or infinity.
    tolerance
        Accepted `residual`.
    limit
        Largest number of float64 passes.
    exact
        Whether the quadratic forms that decide are computed in float64, as a certificate needs.

    Raises
    ------
    LowRankError
        If p is out of range, an entry is not finite, or the residual stays above `tolerance`.

    References
    ----------
    Lewis, "Finite dimensional subspaces of L_p", Studia Mathematica 63 (1978).
    Cohen and Peng, "ℓp row sampling by Lewis weights", STOC 2015, section 3.
    """
    if not (1 <= p <= LARGEST or p == math.inf):
        raise LowRankError(f"Lewis weights need 1 <= p <= {LARGEST:g} or p = inf, not p = {p:g}")
    matrix = matrix.double()
    if not math.isfinite(largest_entry(matrix)):
        raise LowRankError("Lewis weights need a matrix of finite numbers")
    # The matrix itself is the cheapest choice of coordinates, if they are good enough.
    if matrix.shape[0] >= matrix.shape[1] and p < math.inf:
        try:
            return _in_coordinates(matrix, None, p, tolerance, limit, exact)
        except IllConditionedError:
            pass
    return _in_orthonormal_basis(matrix, p, tolerance, limit, exact)


def _in_orthonormal_basis(
    matrix: Tensor, p: float, tolerance: float, limit: int, exact: bool
) -> LewisWeights:
    rows, columns = matrix.shape
    values, vectors = right_singular(matrix)
    rank = numerical_rank(values, rows, columns)
    if rank == 0:
        return LewisWeights(p, matrix.new_zeros(rows), matrix.new_zeros(0, columns), 0, 0.0)
    # What the basis leaves out, and what rounding moves in its rows.
    lost = float(values[rank:].norm()) + 8 * (rows + columns * columns**0.5) * EPS * float(
        values.norm()
    )
    values, vectors = values[:rank], vectors[:, :rank]
    # A = U·(ΣVᵀ): solve for U, then take the form back with ΣVᵀ.
    back = values[:, None] * vectors.T
    basis = _orthonormal(matrix, values, vectors)
    try:
        if p == math.inf:
            solved = _limit_weights(basis, back, tolerance, limit)
        else:
            solved = _in_coordinates(basis, back, p, tolerance, limit, exact)
        return replace(solved, rounding=replace(solved.rounding, matrix=lost))
    except IllConditionedError:
        raise LowRankError(
            f"the Lewis form for p = {p:g} of this {rows}x{columns} matrix is singular in float64; "
            "use a smaller p, or drop nearly dependent columns"
        ) from None


def _orthonormal(matrix: Tensor, values: Tensor, vectors: Tensor) -> Tensor:
    """Return A V Σ⁻¹, n×r, scaled so that no intermediate result overflows."""
    peak = float(values[0])
    inverse = vectors * (peak / values)
    basis = matrix.new_empty(len(matrix), len(values))
    for start in range(0, len(matrix), CHUNK):
        part = slice(start, start + CHUNK)
        torch.matmul(matrix[part] / peak, inverse, out=basis[part])
    return basis


def _limit_weights(basis: Tensor, back: Tensor, tolerance: float, limit: int) -> LewisWeights:
    """Return the weights for p = ∞; `back` maps the coordinates of the user to the basis."""
    start = _in_coordinates(basis, back, START_POWER, START_RESIDUAL, limit, exact=False)
    excess = math.expm1(tolerance)  # the residual is log(1 + excess)
    design = optimal_design(basis, start.weights, excess, STEPS * limit)
    residual = math.log1p(max(design.excess, 0.0))
    passes = start.iterations + design.passes
    if design.excess > excess:
        raise _not_converged(math.inf, residual, passes, tolerance)
    factor = triangular_factor(basis * design.weights.sqrt()[:, None])
    rounding = _rounding(factor.T @ factor, len(basis), factor, back)
    return LewisWeights(math.inf, design.weights, factor @ back, passes, residual, rounding)


def _rounding(
    form: Tensor, count: int, root: Tensor, back: Tensor | None, single: float = 0.0
) -> Rounding:
    """Return the rounding of a form from `count` rows whose quadratic forms are off by `single`."""
    # M is off by γ_n·trace(M) in any metric, by that over its smallest eigenvalue in its own.
    least = float(torch.linalg.eigvalsh(form)[0])
    error = (count * float(form.trace()) + 8 * len(form) * float(form.norm())) * EPS
    relative = error / (least - error) + single if least > error else math.inf
    taken = 0.0 if back is None else len(form) * EPS * float(root.norm()) * float(back.norm())
    return Rounding(relative, 0.0, taken)


def _in_coordinates(
    matrix: Tensor, back: Tensor | None, p: float, tolerance: float, limit: int, exact: bool
) -> LewisWeights:
    """Solve for a matrix of full column rank; `back` maps the user's coordinates to its own."""
    rows = Rows(matrix)
    if len(rows.live) < matrix.shape[1]:
        raise IllConditionedError
    worst = MILD[torch.float64] if back is None else LAST_RESORT
    start = p * rows.log_length  # exact if the form is a multiple of the identity
    start = start - start.logsumexp(0) + math.log(matrix.shape[1])
    if p == 2:  # the form does not depend on the weights
        value = LewisMap(rows, p, worst)(start)
        solution = Solution(value.image, value.image, value.extra, 0.0, 1, True)
    else:
        # Cheap float32 passes first, then a few in float64 from a good start.
        directions = rows.directions()
        start, passes = _prepare(rows, directions, p, start, tolerance, required=back is None)
        final = LewisMap(rows, p, worst, directions, accepted=0.0 if exact else tolerance / 4)
        solution = solve(final, start, 1 - p / 2, tolerance, limit)
        solution = replace(solution, evaluations=solution.evaluations + passes)
    if not solution.converged:
        raise _not_converged(p, solution.residual, solution.evaluations, tolerance)
    form, shift, single = solution.extra  # M is e^{2·shift}·form
    root = torch.linalg.cholesky(form).T * math.exp(shift)
    rounding = _rounding(form, len(matrix), root, back, single)
    weights = matrix.new_zeros(len(matrix))
    weights[rows.live] = solution.point.exp()
    root = root if back is None else root @ back
    return LewisWeights(p, weights, root, solution.evaluations, solution.residual, rounding)


def _not_converged(p: float, residual: float, passes: int, tolerance: float) -> LowRankError:
    return LowRankError(
        f"Lewis weights for p = {p:g} stopped at residual {residual:.1e} after {passes} passes, "
        f"above the tolerance {tolerance:g}; raise the tolerance, or allow more passes"
    )


def _prepare(
    rows: Rows, directions: Directions, p: float, start: Tensor, tolerance: float, required: bool
) -> tuple[Tensor, int]:
    """Return a start computed in float32 and its passes, or `start` if float32 fails."""
    rough = LewisMap(rows, p, MILD[torch.float32], directions, rough=True)
    enough = max(ROUGH, min(3 * math.sqrt(tolerance), 0.3))  # the next residual is about its square
    try:
        solution = solve(rough, start, 1 - p / 2, enough, 100, patient=False)
    except IllConditionedError:
        if required:
            raise
        return start, 0
    return solution.following, solution.evaluations
