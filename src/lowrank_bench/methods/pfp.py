"""PFP: filters sampled, or chosen, by how much they ever contribute to an output."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from lowrank_bench.methods.base import NetworkMethod

if TYPE_CHECKING:
    from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem


class Pfp(NetworkMethod):
    """Keep the channels that make the largest share of any output on some images.

    Idea
        The sensitivity of a channel is the largest share that it has, in any image, patch and
        filter, in what a layer sums up from the weights of one sign. Sampling channels by it keeps
        every output within a factor 1 ± ε; one ε for all layers divides the budget, so layers with
        few important channels are pruned most. Filters whose outputs are added stay or go
        together, by the largest sensitivity in any layer that reads them. The channels are sliced
        out.
    Cost
        Two forwards on |S| images (some 180 for CIFAR networks), and what the upper bounds on the
        shares do not exclude; on one thread, so that the same channels stay on any number of them.
    Guarantee
        With `random` in a chain of layers: m(ε) samples keep each output within 1 ± ε with
        probability 1 − δ; the reported ε is that of the budget, and above 1 it says nothing. The
        budget is never exceeded.

    Parameters
    ----------
    variant
        `deterministic` keeps the channels of the largest sensitivity, without reweighting;
        `random` samples and reweights; `mixed` samples only what is not nearly certain.
    delta
        Probability δ that the guarantee fails.
    samples
        Number of images; null for the paper's |S|. Fewer are used where there are fewer.

    References
    ----------
    Liebenwein, Baykal, Lang, Feldman, Rus, "Provable Filter Pruning for Efficient Neural Networks",
    ICLR 2020.
    """

    name: ClassVar[str] = "pfp"
    title: ClassVar[str] = "PFP"
    source: ClassVar[str] = "Liebenwein et al., ICLR 2020"
    facts: ClassVar[tuple[str, ...]] = ("inputs",)
    targets: ClassVar[tuple[str, ...]] = ("conv",)
    quiet: ClassVar[tuple[str, ...]] = ("variant", "delta", "samples")

    variant: Literal["deterministic", "random", "mixed"] = Field(
        default="deterministic", description="deterministic, random or mixed"
    )
    delta: float = Field(
        default=1e-16, gt=0, lt=1, description="probability that the guarantee fails, in (0, 1)"
    )
    samples: int | None = Field(
        default=None, ge=1, strict=True, description="number of images, null for the paper's"
    )

    def compress(self, problem: NetworkProblem, compression: float) -> CompressedNetwork:
        """Return a copy of the network without the channels that are not kept.

        Raises
        ------
        LowRankError
            When one channel in each group is too much, there are no images, or a layer cannot be
            pruned around.
        """
        from lowrank_bench.prune.provable import prune

        return prune(problem, compression, self.variant, self.delta, self.samples)
