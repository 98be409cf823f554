"""Robust low rank by an ℓp ellipsoid: rows that dominate the matrix lose their pull."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from lowrank_bench.methods.base import Method

if TYPE_CHECKING:
    from lowrank_bench.linalg.decomposition import Projection
    from lowrank_bench.problem import Problem


class Lp(Method):
    """Project the rows onto the k longest directions of the ellipsoid that stands for ‖Ax‖_p.

    Idea
        The SVD reads its subspace from ‖Ax‖₂², to which far-away rows contribute with the square
        of their length. Here it comes from the ball {x : ‖Ax‖_p ≤ 1}, replaced by an ellipsoid
        {x : xᵀMx ≤ 1} around it: M = Aᵀ W^{1−2/p} A with the ℓp Lewis weights W. The k leading
        eigenvectors V_k of M give A ≈ A V_k V_kᵀ. At p = 2 this is the SVD.
    Cost
        About five passes over A, 2·n·d² operations each, most of them in float32.
    Guarantee
        For 1 ≤ p ≤ 2 the sum of |entry|^p of the error, to the power of 1/p, is at most
        d^{2/p−1}·√(d − k) times the least of any matrix of rank k. It follows from
        √(xᵀMx) ≤ ‖Ax‖_p ≤ d^{1/p−1/2}·√(xᵀMx). It is a bound for the worst case.

    Parameters
    ----------
    p
        Exponent of the norm, 1 ≤ p < 4; the smaller, the less far-away rows count.

    References
    ----------
    Tukan, Maalouf, Weksler, Feldman, "No Fine-Tuning, No Cry: Robust SVD for Compressing Deep
    Networks", Sensors 21 (2021), which computes the ellipsoid by the ellipsoid method; the weights
    are those of Cohen and Peng, "ℓp row sampling by Lewis weights", STOC 2015.
    """

    name: ClassVar[str] = "lp"
    title: ClassVar[str] = "Robust low rank (ℓp)"
    source: ClassVar[str] = "Tukan et al., Sensors 21, 2021; Cohen and Peng, STOC 2015"

    p: float = Field(default=1.0, ge=1, lt=4, description="exponent of the norm, 1 <= p < 4")

    def decompose(self, problem: Problem) -> Projection:
        """Return the projection onto the eigenvectors of the Lewis form of the matrix.

        Raises
        ------
        LowRankError
            When the Lewis weights do not converge.
        """
        from lowrank_bench.linalg.decomposition import Projection, complete, orient
        from lowrank_bench.linalg.gram import right_singular
        from lowrank_bench.linalg.lewis import lewis_weights

        matrix = problem.matrix
        lewis = lewis_weights(matrix, self.p)
        _, axes = right_singular(lewis.root)
        info = {
            "matrix_rank": lewis.rank,
            "iterations": lewis.iterations,
            "residual": lewis.residual,
        }
        return Projection(matrix, orient(complete(axes, min(matrix.shape))), info)
