"""SoftNet: remove the filters with the smallest ℓ2 norms, the same share in every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from lowrank_bench.methods.base import NetworkMethod

if TYPE_CHECKING:
    from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem


class SoftNet(NetworkMethod):
    """Remove the filters with the smallest Euclidean norms.

    Idea
        As filter thresholding, with the norm of soft filter pruning. The original method also lets
        pruned filters grow back during training. Here only its selection is used, so that training
        after compression is the same for all methods.
    Cost
        One pass over the weights.
    Guarantee
        Only that the budget is kept.

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
        """Return a copy of the network without the filters with the smallest ℓ2 norms.

        Raises
        ------
        LowRankError
            When one filter in each group exceeds the budget, or a layer that cannot be sliced is
            connected to the filters.
        """
        from lowrank_bench.prune.uniform import prune_by_norm

        return prune_by_norm(problem, compression, power=2)
