"""Robust low rank by the ellipsoid method: the ℓp paper's construction, for few columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from lowrank_bench.methods.base import MatrixMethod
from lowrank_bench.methods.fields import Exponent

if TYPE_CHECKING:
    from lowrank_bench.linalg.decomposition import Projection
    from lowrank_bench.problem import Problem


class Lowner(MatrixMethod):
    """Project the rows onto the longest axes of an ellipsoid around {x : ‖Ax‖_p ≤ 1}.

    Idea
        As `lp`, with the ellipsoid computed as in the paper: start from a ball that contains the
        body and cut it by planes that support the body, until the body contains the ellipsoid
        shrunk by a known factor.
    Cost
        Up to d³ log n inner tests, in practice between ten and a hundred, each with a few n·d²
        operations. Limited to 64 columns; `lp` takes a few passes at
        any size.
    Guarantee
        √(xᵀMx) ≤ ‖Ax‖_p ≤ γ√(xᵀMx), where the certified γ ≤ √(d(d + 1)) is `factor` in `info`. The
        volume is at most v^r times that of Löwner's ellipsoid, the least around the body, where
        v ≤ √(r + 1) is `volume` in `info` and r the rank of A; the least itself is not computed.
        The entrywise ℓp error is at most γ·d^{1/p−1/2}·√(d − k) times the least of any matrix of
        rank k for p ≤ 2, and γ·d^{1/2−1/p}·(d − k)^{1/p} times the least for p ≥ 2.

    Parameters
    ----------
    p
        Exponent of the norm, 1 ≤ p ≤ 16 or inf.

    References
    ----------
    Tukan, Maalouf, Weksler, Feldman, "No Fine-Tuning, No Cry: Robust SVD for Compressing Deep
    Networks", Sensors 21 (2021); Grötschel, Lovász, Schrijver, "Geometric Algorithms and
    Combinatorial Optimization", 1988.
    """

    name: ClassVar[str] = "lowner"
    title: ClassVar[str] = "Robust low rank (ellipsoid method)"
    source: ClassVar[str] = "Tukan et al., Sensors 21, 2021; Grötschel, Lovász, Schrijver, 1988"

    p: Exponent = Field(default=1.0, description="exponent of the norm, 1 <= p <= 16 or inf")

    def decompose(self, problem: Problem) -> Projection:
        """Return the projection onto the axes of the ellipsoid.

        Raises
        ------
        LowRankError
            When the matrix has more than 64 columns.
        """
        from lowrank_bench.linalg.decomposition import Projection, complete, orient
        from lowrank_bench.linalg.ellipsoid.lowner import lowner_ellipsoid
        from lowrank_bench.linalg.gram import right_singular

        matrix = problem.matrix
        ellipsoid = lowner_ellipsoid(matrix, self.p)
        _, axes = right_singular(ellipsoid.root)
        info = {
            "matrix_rank": ellipsoid.rank,
            "factor": ellipsoid.factor,
            "volume": ellipsoid.volume,
            "cuts": ellipsoid.cuts,
            "tests": ellipsoid.tests,
        }
        return Projection(matrix, orient(complete(axes, min(matrix.shape))), info)
