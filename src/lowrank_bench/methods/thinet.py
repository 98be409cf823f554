"""ThiNet: the channels go whose loss changes sampled outputs of the next layer least."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from lowrank_bench.methods.base import NetworkMethod

if TYPE_CHECKING:
    from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem


class ThiNet(NetworkMethod):
    """Remove channels one by one, each time the one that the next layer misses least.

    Idea
        Outputs of the next layer at random places are sums over its input channels. Greedily, the
        channel is removed that keeps the sum of what all removed ones added smallest, in squares.
        Every group of filters loses the same share. Where several layers read a channel, the
        outputs of each count, over their root mean square. The least-squares reweighting of the
        paper is left out, as training after compression includes it.
    Cost
        One forward on `samples` images, and c² · `samples` operations for a group of c filters.
    Guarantee
        None but the budget.

    Parameters
    ----------
    samples
        Number of outputs of each layer, and the most images that are looked at.

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
        """Return a copy of the network without the channels that the next layers miss least.

        Raises
        ------
        LowRankError
            When one filter in each group is too much, there are no images, or a layer cannot be
            pruned around.
        """
        from lowrank_bench.prune.uniform import prune_by_products

        return prune_by_products(problem, compression, self.samples)
