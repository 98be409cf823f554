"""L-Rank without its training: ranks that minimize the total squared error."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from lowrank_bench.methods.base import NetworkMethod

if TYPE_CHECKING:
    from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem


class LRank(NetworkMethod):
    """Factorize every layer by the SVD, with ranks that minimize the total squared error.

    Idea
        The compression step (C-step) of the learning-compression algorithm chooses the ranks r_l
        that minimize λ·cost(r) + Σ_l Σ_{i>r_l} σ_{l,i}². The paper's cost is the parameters or the
        multiply-adds; its reference code prices a rank in multiply-adds. Here the budget of the
        experiment takes the place of λ and says what a rank costs: parameters by default,
        multiply-adds with `budget: macs`. The sum is minimized within it to 1e-4. The other half of
        the method, training that pulls the weights towards their factors, is left out: this is one
        compression step on the trained weights.
    Cost
        One SVD for each layer.
    Guarantee
        The squared Frobenius error, summed over the layers, exceeds the least within the budget by
        at most 1e-4 of the error at the smallest ranks.

    References
    ----------
    Idelbayev and Carreira-Perpiñán, "Low-rank compression of neural nets: learning the rank of each
    layer", CVPR 2020.
    """

    name: ClassVar[str] = "lrank"
    title: ClassVar[str] = "L-Rank (C-step)"
    source: ClassVar[str] = "Idelbayev and Carreira-Perpiñán, CVPR 2020"

    def compress(self, problem: NetworkProblem, compression: float) -> CompressedNetwork:
        """Return a copy of the network with factorized layers, within the budget.

        Raises
        ------
        LowRankError
            When the budget is out of reach, or a layer cannot be handled.
        """
        from lowrank_bench.layerwise.approximators import compress_layerwise

        return compress_layerwise(problem, compression, "svd", "sum")
