"""PFP: filters sampled or selected by their largest contribution to any output."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from lowrank_bench.methods.base import NetworkMethod

if TYPE_CHECKING:
    from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem


class Pfp(NetworkMethod):
    """Keep the channels with the largest share of some output on a set of images.

    Idea
        The sensitivity of a channel is the largest share, over images, patches and filters, that
        it has in the sum over the weights of one sign. Sampling channels by sensitivity keeps
        every output near its value. One ε for all layers divides the budget, so layers with
        few important channels are pruned most. Filters whose outputs are added are kept or removed
        together, ranked by the largest sensitivity in any layer that reads them. Removed channels
        are cut out of the weights.
    Cost
        Two forwards on |S| images (about 180 for CIFAR networks), and the exact shares that upper
        bounds do not rule out; on one thread, so that the result does not depend on their number.
    Guarantee
        With `random` and `mixed`, exactly the wanted number of channels is drawn, and every output
        is right on average; a bound on the tail is in `prune.draw.pivotal`. The paper's bound is
        for m(ε) samples with replacement, and the reported ε is the one at which these are expected
        to hold as many channels as the budget allows; a value above 1 is vacuous. The budget is
        never exceeded, and no more is saved than asked but for one channel: where all channels that
        contribute on the images fit, others stay too, and a warning says that images are too few.

    Parameters
    ----------
    variant
        `deterministic` keeps the channels with the largest sensitivities, without reweighting;
        `random` samples without replacement and reweights; `mixed` keeps the channels that sampling
        would almost surely keep, and samples the rest.
    delta
        Probability δ that the guarantee fails.
    samples
        Number of images, or all where there are fewer; null means the paper's |S|.

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
        default=None, ge=1, strict=True, description="number of images; null: the paper's"
    )

    def compress(self, problem: NetworkProblem, compression: float) -> CompressedNetwork:
        """Return a copy of the network without the removed channels.

        Raises
        ------
        LowRankError
            When one channel in each group exceeds the budget, there are no images, or a layer that
            cannot be sliced is connected to the channels.
        """
        from lowrank_bench.prune.provable import prune

        return prune(problem, compression, self.variant, self.delta, self.samples)
