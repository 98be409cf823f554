"""Filter thresholding: remove the filters with the smallest ℓ1 norms, one share everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from lowrank_bench.methods.base import NetworkMethod

if TYPE_CHECKING:
    from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem


class FilterThreshold(NetworkMethod):
    """Remove the filters whose weights have the smallest sum of magnitudes.

    Idea
        Filters with small weights have small outputs. Layers whose outputs are added form a group:
        their filters are removed together, ranked by the sum of their norms. Every group loses the
        same share of its filters.
    Cost
        One pass over the weights.
    Guarantee
        Only that the budget is kept.

    References
    ----------
    Li, Kadav, Durdanovic, Samet, Graf, "Pruning Filters for Efficient ConvNets", ICLR 2017.
    """

    name: ClassVar[str] = "filter_threshold"
    title: ClassVar[str] = "Filter thresholding (ℓ1)"
    source: ClassVar[str] = "Li et al., ICLR 2017"
    targets: ClassVar[tuple[str, ...]] = ("conv",)

    def compress(self, problem: NetworkProblem, compression: float) -> CompressedNetwork:
        """Return a copy of the network without the filters with the smallest ℓ1 norms.

        Raises
        ------
        LowRankError
            When one filter in each group exceeds the budget, or a layer that cannot be sliced is
            connected to the filters.
        """
        from lowrank_bench.prune.uniform import prune_by_norm

        return prune_by_norm(problem, compression, power=1)
