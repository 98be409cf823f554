"""ThiNet: remove the channels that change sampled outputs of the next layer the least."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from lowrank_bench.methods.base import NetworkMethod

if TYPE_CHECKING:
    from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem


class ThiNet(NetworkMethod):
    """Remove channels one by one, always the one that changes the next layer's outputs least.

    Idea
        An output of the next layer is a sum over its input channels. Outputs are sampled at random
        positions, and channels are removed greedily: each step adds the channel for which the
        squared sum of all removed contributions stays smallest. Every group of filters whose
        outputs are added loses the same share.
        Where several layers read a channel, the outputs of each count, divided by their root mean
        square. The least-squares reweighting of the paper is left out, because training after
        compression includes it.
    Cost
        One forward on `samples` images, and c² · `samples` operations for a group of c filters.
    Guarantee
        Only that the budget is kept.

    Parameters
    ----------
    samples
        Number of sampled outputs of each layer, and the largest number of images used.

    References
    ----------
    Luo, Wu, Lin, "ThiNet: A Filter Level Pruning Method for Deep Neural Network Compression", ICCV
    2017.
    """

    name: ClassVar[str] = "thinet"
    title: ClassVar[str] = "ThiNet"
    source: ClassVar[str] = "Luo et al., ICCV 2017"
    facts: ClassVar[tuple[str, ...]] = ("inputs",)
    targets: ClassVar[tuple[str, ...]] = ("conv",)
    quiet: ClassVar[tuple[str, ...]] = ("samples",)

    samples: int = Field(
        default=100, ge=1, le=10**5, strict=True, description="sampled outputs of each layer"
    )

    def compress(self, problem: NetworkProblem, compression: float) -> CompressedNetwork:
        """Return a copy of the network without the least important channels.

        Raises
        ------
        LowRankError
            When one filter in each group exceeds the budget, there are no images, or a layer that
            cannot be sliced is connected to the filters.
        """
        from lowrank_bench.prune.uniform import prune_by_products

        return prune_by_products(problem, compression, self.samples)
