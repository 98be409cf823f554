"""FT: the filters of the smallest ℓ1 norm go, the same share in every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from lowrank_bench.methods.base import NetworkMethod

if TYPE_CHECKING:
    from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem


class FilterThreshold(NetworkMethod):
    """Prune the filters whose weights have the smallest sum of magnitudes.

    Idea
        Filters with small weights give small outputs. Every group of filters loses the same share;
        filters whose outputs are added go together, by the sum over all of them.
    Cost
        A look at each weight.
    Guarantee
        None but the budget.

    References
    ----------
    Li, Kadav, Durdanovic, Samet, Graf, "Pruning Filters for Efficient ConvNets", ICLR 2017.
    """

    name: ClassVar[str] = "filter_threshold"
    title: ClassVar[str] = "Filter thresholding (ℓ1)"
    source: ClassVar[str] = "Li et al., ICLR 2017"
    targets: ClassVar[tuple[str, ...]] = ("conv",)

    def compress(self, problem: NetworkProblem, compression: float) -> CompressedNetwork:
        """Return a copy of the network without the filters of the smallest ℓ1 norm.

        Raises
        ------
        LowRankError
            When one filter in each group is too much, or a layer cannot be pruned around.
        """
        from lowrank_bench.prune.uniform import prune_by_norm

        return prune_by_norm(problem, compression, power=1)
