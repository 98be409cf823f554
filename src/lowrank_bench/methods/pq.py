"""Product quantization."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from lowrank_bench.methods.base import CodingMethod
from lowrank_bench.methods.fields import UseWeighted

if TYPE_CHECKING:
    from lowrank_bench.linalg.factors import Approximation
    from lowrank_bench.problem import Problem


class Pq(CodingMethod, UseWeighted):
    """Cut each row into pieces, and replace each piece by the nearest of 2^b vectors.

    Idea
        Vectors of several columns follow the shape of the data, where rounding fills a cube. The
        2^b vectors of a piece are the centres of weighted k-means.
    Cost
        8 steps of k-means for each piece, on a sample of 64·2^b rows, and one pass over all rows.
    Guarantee
        None beyond the measured error: k-means finds a local optimum.

    Parameters
    ----------
    bits
        b, 1 to 8.
    weights
        Weights of the rows: `vocabulary`, `counts` or `uniform`.
    seed
        Seed of the first centres.

    References
    ----------
    Jégou, Douze, Schmid, "Product quantization for nearest neighbor search", TPAMI 2011.
    """

    name: ClassVar[str] = "pq"
    title: ClassVar[str] = "Product quantization"
    source: ClassVar[str] = "Jégou, Douze, Schmid, TPAMI 2011"
    row_order: ClassVar[bool] = True
    quiet: ClassVar[tuple[str, ...]] = ("seed", "bits")

    bits: int = Field(default=8, ge=1, le=8, description="bits of a piece, 1 to 8")
    seed: int = Field(default=0, ge=0, lt=2**63, description="seed of the first centres")

    def code(self, problem: Problem, n_bytes: int) -> tuple[Approximation, dict[str, Any]]:
        """Return the code with as many pieces as fit.

        Raises
        ------
        LowRankError
            When one piece does not fit.
        """
        from lowrank_bench.linalg.coding.product import parts_for, product_code
        from lowrank_bench.linalg.frequency.row_use import row_use

        n, d = problem.matrix.shape
        parts = parts_for((n, d), n_bytes, self.bits)
        weights = row_use(problem, self.weights)
        return product_code(problem.matrix, weights, parts, self.bits, seed=self.seed)
