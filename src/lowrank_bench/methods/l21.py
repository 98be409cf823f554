"""Row-robust PCA: the subspace with the least sum of distances to the rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from lowrank_bench.methods.base import MatrixMethod

if TYPE_CHECKING:
    from lowrank_bench.linalg.decomposition import Single
    from lowrank_bench.problem import Problem


class L21(MatrixMethod):
    """Project the rows onto the subspace that lowers Σ‖a_i − a_i V Vᵀ‖₂^q.

    Idea
        The SVD lowers the sum of squared distances, which far-away rows decide. Here a row at the
        distance r from the present subspace gets the weight (r² + ε²)^{q/2−1}, the weighted SVD
        gives the next subspace, and ε falls. A rotation of the columns changes nothing.
    Cost
        For each rank and start, up to `steps` times a Gram matrix, the eigenvectors of a d×d
        matrix and the distances: n·d·(9d/4 − 2k) operations.
    Guarantee
        The ℓ2,q error is never above that of the start: the SVD's with "svd" or "best", that of
        `lp` with "ellipsoid" or "best". The ellipsoid's, for p = q, is at most d^{1/q−1/2} times
        the least possible (`linalg.certificates.certificate`); the result keeps that factor.

    Parameters
    ----------
    q
        Exponent of the distances, 1 ≤ q < 2; the smaller, the less far-away rows count.
    start
        The first subspace: of the SVD, of the ℓp ellipsoid for p = q, or the better result of both.
    steps
        Most steps from each start.
    tolerance
        The last step gains less than this part of the objective.
    center
        Let the subspace miss the origin: d more numbers, a row that is added to all.

    References
    ----------
    Ding, Zhou, He, Zha, "R1-PCA: rotational invariant L1-norm principal component analysis", ICML
    2006; Lerman and Maunu, "Fast, robust and non-convex subspace recovery", Information and
    Inference 7 (2018).
    """

    name: ClassVar[str] = "l21"
    title: ClassVar[str] = "Row-robust PCA (ℓ2,1)"
    source: ClassVar[str] = "Ding et al., ICML 2006; Lerman and Maunu, Inf. Inference 7, 2018"
    nested: ClassVar[bool] = False
    quiet: ClassVar[tuple[str, ...]] = ("start", "steps", "tolerance", "center")

    q: float = Field(default=1.0, ge=1, lt=2, description="exponent of the distances, 1 <= q < 2")
    start: Literal["svd", "ellipsoid", "best"] = Field(
        default="best", description="first subspace; best: the better result of both"
    )
    steps: int = Field(default=30, ge=1, description="most steps from each start")
    tolerance: float = Field(default=1e-5, ge=0, lt=1, description="least gain of a step, relative")
    center: bool = Field(default=False, description="let the subspace miss the origin")

    def n_parameters(self, rank: int, rows: int, columns: int) -> int:
        """Return the numbers that the factors keep, with the mean row if there is one."""
        return rank * (rows + columns) + (columns if self.center else 0)

    def decompose(self, problem: Problem) -> Single:
        """Return the factors of `problem.rank`.

        Raises
        ------
        LowRankError
            When `start` is "ellipsoid" and the Lewis weights do not converge.
        """
        from lowrank_bench.linalg.decomposition import Single, orient
        from lowrank_bench.linalg.factors import Factors
        from lowrank_bench.linalg.robust.row_robust import nearest_subspace
        from lowrank_bench.linalg.robust.starts import first_bases

        matrix, rank = problem.matrix, problem.wanted_rank
        found = {
            name: nearest_subspace(
                matrix, basis, self.q, self.steps, self.tolerance, center=self.center
            )
            for name, basis in first_bases(matrix, rank, self.q, self.start).items()
        }
        best = min(found, key=lambda name: found[name].error)
        subspace = found[best]
        basis = orient(subspace.basis)
        mean = subspace.mean if self.center else None
        left = (matrix - subspace.mean) @ basis if self.center else matrix @ basis
        info = {"start": best, "steps": subspace.steps, "error": subspace.error}
        return Single(Factors(left, basis.T.contiguous(), mean), rank, info)
