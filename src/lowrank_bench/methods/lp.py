"""Robust low rank by an ℓp ellipsoid: outlying rows have less influence than in the SVD."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from lowrank_bench.methods.base import MatrixMethod
from lowrank_bench.methods.fields import Exponent

if TYPE_CHECKING:
    from lowrank_bench.linalg.decomposition import Projection
    from lowrank_bench.problem import Problem

# Accepted relative error of a Lewis weight. The form M averages over rows and is usually ten times
# as accurate, and the last pass usually leaves a smaller error.
TOLERANCE = 1e-2


class Lp(MatrixMethod):
    """Project the rows onto the k leading eigenvectors of a quadratic form close to ‖Ax‖_p².

    Idea
        The SVD gets its subspace from ‖Ax‖₂², where an outlying row counts with the square of its
        length. Here the subspace comes from the ball {x : ‖Ax‖_p ≤ 1}, approximated by the
        ellipsoid xᵀMx ≤ 1 with M = Aᵀ W^{1−2/p} A and the ℓp Lewis weights W. The k leading
        eigenvectors V_k of M give A ≈ A V_k V_kᵀ. At p = 2 this is the SVD. Above 2, outlying rows
        count more; at p = ∞ only they count, and xᵀMx ≤ 1 is John's ellipsoid, the largest inside
        the ball; scaled by √d it contains the ball, but Löwner's, the least around it, is smaller.
    Cost
        About two passes over A for p = 1, 2·n·d² operations each, most of them in float32; up to
        twenty for p = 16.
    Guarantee
        The entrywise ℓp error is at most d^{2/p−1} times the least of any matrix of rank k for
        1 ≤ p ≤ 2 (`proven_factors` in `linalg.certificates`), d^{1−2/p}·(d − k)^{1/p} times the
        least for 2 ≤ p < ∞, and d times the least for p = ∞. These are worst-case bounds; `certify`
        computes one for the matrix at hand. They follow from
        √(xᵀMx) ≤ ‖Ax‖_p ≤ d^{1/p−1/2}·√(xᵀMx) for p ≤ 2, and from
        d^{1/p−1/2}·√(xᵀMx) ≤ ‖Ax‖_p ≤ √(xᵀMx) for p ≥ 2: with σ² the eigenvalue k + 1 of M, a
        column of the error is at most the upper factor times σ times its part outside V_k, and
        every matrix of rank k vanishes on some x with √(xᵀMx) ≥ σ‖x‖. The weights are computed up
        to a relative error δ, `residual` in the report; each of the two bounds then holds up to a
        factor of exp(δ|p − 2|/p²) (p = ∞: exp(δ/2)), at most 1.01. With `center`, all of this holds
        for A less its mean row.

    Parameters
    ----------
    p
        Exponent of the norm, 1 ≤ p ≤ 16 or inf; a smaller one gives outlying rows less weight.
    center
        Subtract the mean row first and keep it as a bias of d more numbers.

    References
    ----------
    Tukan, Maalouf, Weksler, Feldman, "No Fine-Tuning, No Cry: Robust SVD for Compressing Deep
    Networks", Sensors 21 (2021), which computes the ellipsoid by the ellipsoid method; Cohen and
    Peng, "ℓp row sampling by Lewis weights", STOC 2015, for the weights.
    """

    name: ClassVar[str] = "lp"
    title: ClassVar[str] = "Robust low rank (ℓp)"
    source: ClassVar[str] = "Tukan et al., Sensors 21, 2021; Cohen and Peng, STOC 2015"
    quiet: ClassVar[tuple[str, ...]] = ("center",)

    p: Exponent = Field(default=1.0, description="exponent of the norm, 1 <= p <= 16 or inf")
    center: bool = Field(default=False, description="keep the mean row as a bias")

    def n_parameters(self, rank: int, rows: int, columns: int) -> int:
        """Return k·(n + d), plus d for the mean row where it is kept."""
        return rank * (rows + columns) + columns * self.center

    def decompose(self, problem: Problem) -> Projection:
        """Return the projection onto the eigenvectors of the Lewis form.

        Raises
        ------
        LowRankError
            When the Lewis weights do not converge.
        """
        from lowrank_bench.linalg.decomposition import Projection, complete, orient
        from lowrank_bench.linalg.ellipsoid.lewis import lewis_weights
        from lowrank_bench.linalg.gram import right_singular

        matrix = problem.matrix
        mean = matrix.mean(dim=0) if self.center else None
        rows = matrix if mean is None else matrix - mean
        lewis = lewis_weights(rows, self.p, tolerance=TOLERANCE)
        _, axes = right_singular(lewis.root)
        info = {
            "matrix_rank": lewis.rank,
            "iterations": lewis.iterations,
            "residual": lewis.residual,
        }
        return Projection(matrix, orient(complete(axes, min(matrix.shape))), info, mean=mean)
