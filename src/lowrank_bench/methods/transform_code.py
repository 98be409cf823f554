"""Transform coding of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from lowrank_bench.methods.base import NetworkMethod, NetworkPart
from lowrank_bench.methods.fields import UseCoded

if TYPE_CHECKING:
    from lowrank_bench.layerwise.whole_bytes import compress_transformed
    from lowrank_bench.linalg.factors import Approximation
    from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem
    from lowrank_bench.problem import Problem
else:
    compress_transformed = NetworkPart(
        "lowrank_bench.layerwise.whole_bytes", "compress_transformed"
    )


class TransformCode(UseCoded, NetworkMethod):
    """Rotate the table, and give every band of rows and direction the bits that it earns.

    Idea
        In a basis of its weighted covariance a table has a few directions of large variance and
        many of small; and a few rows are used often, most hardly ever. One bit for the entries of
        a band of rows in a direction lowers their squared error by a known share. So the bits go
        where use times variance is largest: reverse water-filling. Low rank is the case of 32 bits
        or none, rounding that of equal bits everywhere. In a whole network the layers are coded
        without a basis, which would cost what it saves, and the bytes are divided such that the
        sum of the shares of squared norm that are lost is least.
    Cost
        One eigenvalue problem d×d, two products n×d×d, and one pass to round: seconds.
    Guarantee
        The allocation is within one step of the best on its grid (a linear program bounds it), and
        the report says how far its error is from the rate–distortion bound of a Gaussian source
        with the same covariances.

    Parameters
    ----------
    weights
        Where the use of the rows comes from: `vocabulary`, `counts` or `uniform`.
    alpha
        Exponent of the use: 0 treats all rows alike, 1 minimizes the expected squared error.
    bands
        Groups of rows of similar use.
    basis
        `weighted`: eigenvectors of the covariance weighted by use; `plain`; `none`: no rotation.
        For an embedding alone; in a whole network it is `weighted`.

    References
    ----------
    Goyal, "Theoretical foundations of transform coding", IEEE Signal Processing Magazine 2001;
    Cover and Thomas, "Elements of Information Theory", section 10.3.3, for water-filling.
    """

    name: ClassVar[str] = "transform_code"
    title: ClassVar[str] = "Transform coding, weighted by use"
    source: ClassVar[str] = "this suite; after Goyal, IEEE SPM 2001"
    targets: ClassVar[tuple[str, ...]] = ("embedding", "linear", "conv")
    quiet: ClassVar[tuple[str, ...]] = ("alpha", "bands", "basis")

    bands: int = Field(default=16, ge=1, le=256, description="groups of rows of similar use")
    basis: Literal["weighted", "plain", "none"] = Field(
        default="weighted", description="weighted, plain or none"
    )

    def code(self, problem: Problem, n_bytes: int) -> tuple[Approximation, dict[str, Any]]:
        """Return the code, of at most `n_bytes`.

        Raises
        ------
        LowRankError
            When the budget does not hold the tables of the code.
        """
        from lowrank_bench.linalg.coding.coder import transform_code, use_weights
        from lowrank_bench.linalg.frequency.row_use import row_use

        use = use_weights(row_use(problem, self.weights), self.alpha)
        return transform_code(problem.matrix, use, n_bytes, bands=self.bands, basis=self.basis)

    def compress(self, problem: NetworkProblem, compression: float) -> CompressedNetwork:
        """Return a copy of the network with coded layers, within the budget of bytes.

        Raises
        ------
        LowRankError
            When the budget is not one of bytes, or out of reach.
        """
        return compress_transformed(problem, compression, self.weights, self.alpha, self.bands)
