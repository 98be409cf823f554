"""SoftNet: the filters of the smallest ℓ2 norm go, the same share in every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from lowrank_bench.methods.base import NetworkMethod

if TYPE_CHECKING:
    from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem


class SoftNet(NetworkMethod):
    """Prune the filters of the smallest Euclidean norm.

    Idea
        As filter thresholding, with the norm of soft filter pruning. That method also lets pruned
        filters grow back while it trains; here it is its selection alone, so that training after
        compression is the same for all methods.
    Cost
        A look at each weight.
    Guarantee
        None but the budget.

    References
    ----------
    He, Kang, Dong, Fu, Yang, "Soft Filter Pruning for Accelerating Deep Convolutional Neural
    Networks", IJCAI 2018.
    """

    name: ClassVar[str] = "softnet"
    title: ClassVar[str] = "SoftNet (ℓ2)"
    source: ClassVar[str] = "He et al., IJCAI 2018"
    targets: ClassVar[tuple[str, ...]] = ("conv",)

    def compress(self, problem: NetworkProblem, compression: float) -> CompressedNetwork:
        """Return a copy of the network without the filters of the smallest ℓ2 norm.

        Raises
        ------
        LowRankError
            When one filter in each group is too much, or a layer cannot be pruned around.
        """
        from lowrank_bench.prune.uniform import prune_by_norm

        return prune_by_norm(problem, compression, power=2)
