"""Low entrywise ℓp error by alternating, iteratively reweighted least squares."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from lowrank_bench.methods.base import MatrixMethod

if TYPE_CHECKING:
    from lowrank_bench.linalg.decomposition import Single
    from lowrank_bench.problem import Problem


class Irls(MatrixMethod):
    """Minimize Σ|entry|^p of the error over both factors, from the SVD or the ℓp ellipsoid.

    Idea
        `lp` picks a subspace and projects onto it orthogonally, so single outlying entries still
        affect the projection. Here coefficients and subspace are refitted in turn by least squares
        in which an entry with error e has the weight (e² + ε²)^{p/2−1}, while ε decreases.
    Cost
        For each rank, start and sweep about 56·n·d·k operations, most of them in float32, and the
        memory of a few copies of the matrix.
    Guarantee
        The entrywise ℓp error is at most that of the start: that of the SVD with `start` "svd" or
        "best", that of `lp` with "ellipsoid" or "best", so that the worst-case factor of `lp`
        holds here too. The optimum is NP-hard to find (Gillis and Vavasis, 2018, for p = 1).

    Parameters
    ----------
    p
        Exponent of the norm, 1 ≤ p < 2.
    start
        The first subspace: that of the SVD, that of the ℓp ellipsoid, or the better of both
        results.
    refit
        "left" keeps the subspace of the start and refits only the coefficients of each row.
    sweeps
        Largest number of passes over both factors from each start.
    tolerance
        After a pass that lowers the objective by less than this share, ε decreases faster.

    References
    ----------
    Ke and Kanade, "Robust L1 norm factorization in the presence of outliers and missing data",
    CVPR 2005; Chartrand and Yin, "Iteratively reweighted algorithms for compressive sensing",
    ICASSP 2008.
    """

    name: ClassVar[str] = "irls"
    title: ClassVar[str] = "Entrywise ℓp (IRLS)"
    source: ClassVar[str] = "Ke and Kanade, CVPR 2005; Chartrand and Yin, ICASSP 2008"
    nested: ClassVar[bool] = False
    quiet: ClassVar[tuple[str, ...]] = ("start", "refit", "sweeps", "tolerance")

    p: float = Field(default=1.0, ge=1, lt=2, description="exponent of the norm, 1 <= p < 2")
    start: Literal["svd", "ellipsoid", "best"] = Field(
        default="best", description="first subspace; best: the better of both results"
    )
    refit: Literal["both", "left"] = Field(default="both", description="which factors are refitted")
    sweeps: int = Field(default=30, ge=1, description="largest number of passes from each start")
    tolerance: float = Field(
        default=1e-5, ge=0, lt=1, description="smallest relative gain of a pass"
    )

    def decompose(self, problem: Problem) -> Single:
        """Return the factors of `problem.rank`.

        Raises
        ------
        LowRankError
            When `start` is "ellipsoid" and the Lewis weights do not converge.
        """
        from lowrank_bench.linalg.decomposition import Single
        from lowrank_bench.linalg.factors import Factors
        from lowrank_bench.linalg.robust.irls import alternate
        from lowrank_bench.linalg.robust.starts import first_bases

        rank, both = problem.wanted_rank, self.refit == "both"
        fits = {
            name: alternate(problem.matrix, basis, self.p, self.sweeps, self.tolerance, both)
            for name, basis in first_bases(problem.matrix, rank, self.p, self.start).items()
        }
        best = min(fits, key=lambda name: fits[name].error)
        fit = fits[best]
        info = {"start": best, "sweeps": fit.sweeps, "error": fit.error}
        return Single(Factors(fit.left, fit.right), rank, info)
