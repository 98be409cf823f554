"""An ellipsoid around the ball {x : ‖Ax‖_p ≤ 1} by the ellipsoid method, as first published.

This code differs from the published code where that loses the guarantee. The published start
ball need not contain L. It cuts with one plane at depth 1/(r + 1), but a point at 1/√(r + 1) of
an axis only proves a depth of 1/√(r + 1), so a cut may remove a part of L. A cut with the plane
and its mirror image is valid. The centre then stays at 0, which is in L, and the step that moves
a centre from outside into L ("basic ellipsoid step") is never needed. Where the published code
shrinks the ellipsoid heuristically after `limit` steps, this one raises an error. E is stored as
a factor F that each cut changes by a rank-one matrix, so that rounding cannot make it indefinite.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.ellipsoid.quadratic_form import QuadraticForm
from lowrank_bench.linalg.gram import numerical_rank

LARGEST_WIDTH = 64  # the number of cuts grows with d³


@dataclass(frozen=True)
class LownerEllipsoid(QuadraticForm):
    """An ellipsoid {x : xᵀMx ≤ 1} with √(xᵀMx) ≤ ‖Ax‖_p ≤ `factor`·√(xᵀMx) for every x.

    Attributes
    ----------
    p
        The exponent.
    root
        Tensor r×d, float64, with M = rootᵀ root and r the rank of A.
    factor
        The certified ratio of the outer to the inner ellipsoid, at most √(r(r + 1)).
    volume
        The ellipsoid's volume is at most `volume`^r times that of the least around the body,
        Löwner's; at most √(r + 1).
    cuts
        Number of cuts by a pair of parallel planes.
    tests
        Number of inner tests.
    """

    p: float
    root: Tensor
    factor: float
    volume: float
    cuts: int
    tests: int


def lowner_ellipsoid(matrix: Tensor, p: float, limit: int = 10_000) -> LownerEllipsoid:
    """Return an ellipsoid around the body L = {x : ‖Ax‖_p ≤ 1}, p ≥ 1, d ≤ 64.

    The ellipsoid method with shallow cuts for a symmetric body (Grötschel, Lovász, Schrijver):

    1. Coordinates y = Bx with A = U·B, where U has orthonormal columns. There ‖y‖₂ ≤ ‖Uy‖_p for
       p ≤ 2, and n^{1/p−1/2}‖y‖₂ ≤ ‖Uy‖_p for p ≥ 2, so the initial ball contains L for any scaling
       of the rows of A.
    2. Inner test: take the r columns z of F, for the ellipsoid E = {Fc : ‖c‖₂ ≤ 1}. Stop if each
       z/√(r + 1) is in L. Every y in E is Σ c_j z_j with Σ c_j² ≤ 1, so ‖Uy‖_p is then at most
       √(Σ ‖Uz_j‖_p²) ≤ √(r(r + 1)) on E; the first bound is returned as `factor`. L contains the
       points ±z_j/‖Uz_j‖_p. The least ellipsoid around points ±λ_j e_j has them as the ends of its
       axes, and F maps least ellipsoids to least ones, so the least around L has at least
       1/Π‖Uz_j‖_p times the volume of E; the r-th root of this product is returned as `volume`.
       The published code tests the ends of the axes of E instead. Axes of nearly equal length
       turn with the last bit of F, and after a few tests every processor has another ellipsoid;
       the columns of F change as little as F does.
    3. Separation oracle: for a z that fails, the subgradient g = Uᵀ(sign(Uz)|Uz|^{p−1}) divided by
       ‖Uz‖_p^{p−1} has g·z = ‖Uz‖_p and g·y ≤ ‖Uy‖_p, so L lies between g·y ≤ 1 and g·y ≥ −1.
    4. Shallow cut: E becomes the smallest ellipsoid around its part between the two planes. All
       failing columns cut in turn, the worst first. The first cut after a test multiplies the
       volume by about 1 − 1/(4r²) or less, which bounds the tests by O(r³ log n); far fewer are
       needed.

    Parameters
    ----------
    matrix
        Tensor A, n×d; converted to float64.
    p
        Exponent, p ≥ 1; may be infinity.
    limit
        Largest number of inner tests.

    Raises
    ------
    LowRankError
        If d > 64, p < 1, an entry is not finite, or the inner test never succeeds.

    References
    ----------
    Tukan, Maalouf, Weksler, Feldman, "No Fine-Tuning, No Cry: Robust SVD for Compressing Deep
    Networks", Sensors 21 (2021), and its published code.
    Grötschel, Lovász, Schrijver, "Geometric Algorithms and Combinatorial Optimization", 1988,
    sections 3.3 and 4.6.
    """
    rows, columns = matrix.shape
    matrix = matrix.double()
    peak = float(matrix.abs().max()) if matrix.numel() else 0.0
    _check(columns, p, peak)
    if peak == 0:
        return LownerEllipsoid(p, matrix.new_zeros(0, columns), 1.0, 1.0, 0, 0)
    basis, values, axes = torch.linalg.svd(matrix / peak, full_matrices=False)
    rank = numerical_rank(values, rows, columns)
    # A = UΣVᵀ: solve for L in the coordinates y = ΣVᵀx, then take the form back to x.
    body = _Body(basis[:, :rank].contiguous(), p)
    outer, norms, cuts, tests = _enclose(body, limit)
    back = (values[:rank, None] * peak) * axes[:rank]
    root = torch.linalg.solve(outer, back)
    factor, volume = float(norms.norm()), float(norms.log().mean().exp())
    return LownerEllipsoid(p, root, factor, volume, cuts, tests)


def _check(columns: int, p: float, peak: float) -> None:
    if columns > LARGEST_WIDTH:
        raise LowRankError(
            f"the ellipsoid method is for at most {LARGEST_WIDTH} columns, not {columns}: it needs "
            "on the order of d³ cuts; use the method lp, whose ellipsoid is as good"
        )
    if not p >= 1:
        raise LowRankError(f"the ball of ‖Ax‖_p is convex only for p >= 1, not for p = {p:g}")
    if not math.isfinite(peak):
        raise LowRankError("the ellipsoid method needs a matrix of finite numbers")


class _Body:
    """The ball {y : ‖Uy‖_p ≤ 1} of an n×r matrix U with orthonormal columns."""

    def __init__(self, basis: Tensor, p: float) -> None:
        self.basis, self.p = basis, p

    def radius(self) -> float:
        """Return the radius of a ball around 0 that contains the body."""
        return 1.0 if self.p <= 2 else len(self.basis) ** (0.5 - 1 / self.p)

    def support(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return ‖Uy‖_p for each column y, and the subgradients there as columns."""
        images = self.basis @ points
        # Scale by the largest entry, so that powers neither overflow nor vanish.
        peak = images.abs().amax(dim=0)
        images = images / peak
        if math.isinf(self.p):  # a subgradient of max |·|: the sign of the largest entry
            first = images.abs().argmax(dim=0, keepdim=True)
            dual = torch.zeros_like(images).scatter(0, first, images.gather(0, first))
            return peak, self.basis.T @ dual
        # The gradient of ‖·‖_p: sign(u)|u|^{p−1} / ‖u‖_p^{p−1}.
        powers = images.abs() ** (self.p - 1)
        total = (powers * images.abs()).sum(dim=0)
        dual = images.sign() * powers / total ** (1 - 1 / self.p)
        return peak * total ** (1 / self.p), self.basis.T @ dual


def _enclose(body: _Body, limit: int) -> tuple[Tensor, Tensor, int, int]:
    """Return F, ‖Uz‖_p of its columns z, the cuts and the inner tests."""
    dimension = body.basis.shape[1]
    identity = torch.eye(dimension, dtype=body.basis.dtype, device=body.basis.device)
    outer, cuts = identity * body.radius(), 0
    for tests in range(1, limit + 1):
        norms, gradients = body.support(outer)
        if float(norms.max()) <= math.sqrt(dimension + 1) * (1 + 1e-12):
            return outer, norms, cuts, tests
        # Each end outside gives a half space that holds the body: cut E by it, farthest first.
        for column in norms.argsort(descending=True).tolist():
            if float(norms[column]) > math.sqrt(dimension + 1):
                outer, done = _cut(outer, gradients[:, column])
                cuts += done
    raise LowRankError(
        f"the ellipsoid method for p = {body.p:g} did not finish in {limit} inner tests; "
        "use the method lp"
    )


def _cut(outer: Tensor, gradient: Tensor) -> tuple[Tensor, bool]:
    """Return the factor of the smallest ellipsoid around E ∩ {|g·y| ≤ 1}, and whether it shrank.

    Let β = 1/√(gᵀFFᵀg) be the distance of the planes from the centre in units of E. For rβ² < 1,
    the axis across the planes shrinks to √r·β and the others grow by √(r(1 − β²)/(r − 1)).
    """
    dimension = len(outer)
    normal = outer.T @ gradient
    length = float(normal.norm())
    depth = 1 / length
    if dimension * depth**2 >= 1:  # an earlier cut of this round was enough
        return outer, False
    if dimension == 1:
        return outer * depth, True
    across = math.sqrt(dimension) * depth
    along = math.sqrt(dimension * (1 - depth**2) / (dimension - 1))
    normal = normal / length
    # F·(along·I + (across − along)·nnᵀ), for the unit normal n in the coordinates of E.
    return along * outer + torch.outer(outer @ normal, (across - along) * normal), True
