"""L-Rank without its training: ranks for the least total squared error."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from lowrank_bench.methods.base import NetworkMethod

if TYPE_CHECKING:
    from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem


class LRank(NetworkMethod):
    """Factorize every layer by the SVD; ranks for the least total squared error in the budget.

    Idea
        The compression step of learning-compression chooses the ranks r_l that minimise
        λ·cost(r) + Σ_l Σ_{i>r_l} σ_{l,i}², λ the price of a parameter or multiply-add. Here the
        budget is given instead of λ, and the least sum within it is found to 1e-4. The method's
        other half, training that pulls the weights towards these factors, is not done: this is one
        compression step, on the trained weights.
    Cost
        One SVD for each layer.
    Guarantee
        No other choice of ranks within the budget leaves a squared Frobenius error, summed over the
        layers, that is smaller by more than 1e-4 of what the smallest ranks leave.

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
