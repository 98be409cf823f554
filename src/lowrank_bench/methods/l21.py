"""Row-robust PCA: the subspace with the smallest sum of distances to the rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from lowrank_bench.methods.base import MatrixMethod

if TYPE_CHECKING:
    from lowrank_bench.linalg.decomposition import Single
    from lowrank_bench.problem import Problem


class L21(MatrixMethod):
    """Project the rows onto a subspace that minimizes Σ‖a_i − a_i V Vᵀ‖₂^q.

    Idea
        The SVD minimizes the sum of squared distances, which outlying rows dominate. Here a row at
        distance r from the current subspace gets the weight (r² + ε²)^{q/2−1}, the weighted SVD
        gives the next subspace, and ε decreases. The result is invariant to rotations of the
        columns.
    Cost
        For each rank and start, up to `steps` times a Gram matrix, the eigenvectors of a d×d
        matrix and the distances: n·d·(9d/4 − 2k) operations.
    Guarantee
        The ℓ2,q error is at most that of the start: that of the SVD with "svd" or "best", that of
        `lp` with "ellipsoid" or "best". The error of the ellipsoid, for p = q, is at most
        d^{1/q−1/2} times the least possible (`linalg.certificates.certificate`), and so is that of
        the result.

    Parameters
    ----------
    q
        Exponent of the distances, 1 ≤ q < 2; a smaller one gives outlying rows less weight.
    start
        The first subspace: that of the SVD, that of the ℓp ellipsoid for p = q, or the better of
        both results.
    steps
        Largest number of steps from each start.
    tolerance
        Stop after a step that lowers the objective by less than this share.
    center
        Fit an affine subspace: one row of d numbers more, which is added to all rows.

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
        default="best", description="first subspace; best: the better of both results"
    )
    steps: int = Field(default=30, ge=1, description="largest number of steps from each start")
    tolerance: float = Field(
        default=1e-5, ge=0, lt=1, description="smallest relative gain of a step"
    )
    center: bool = Field(default=False, description="fit an affine subspace")

    def n_parameters(self, rank: int, rows: int, columns: int) -> int:
        """Return the numbers that the factors keep, including the mean row."""
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
        subspaces = {
            name: nearest_subspace(
                matrix, basis, self.q, self.steps, self.tolerance, center=self.center
            )
            for name, basis in first_bases(matrix, rank, self.q, self.start).items()
        }
        best = min(subspaces, key=lambda name: subspaces[name].error)
        subspace = subspaces[best]
        basis = orient(subspace.basis)
        mean = subspace.mean if self.center else None
        left = (matrix - subspace.mean) @ basis if self.center else matrix @ basis
        info = {"start": best, "steps": subspace.steps, "error": subspace.error}
        return Single(Factors(left, basis.T.contiguous(), mean), rank, info)
