"""Truncated SVD of every layer at one relative rank: the simplest baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from lowrank_bench.methods.base import NetworkMethod

if TYPE_CHECKING:
    from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem


class SvdUniform(NetworkMethod):
    """Factorize every layer by the SVD of its folded weight, all at the same share of their rank.

    Idea
        Layer l keeps the rank ⌈t·r_l⌉ of its full rank r_l; the share t is the largest that fits
        the budget. Layers whose factors would be larger stay dense.
    Cost
        One SVD for each layer.
    Guarantee
        Each layer is the nearest of its rank in the Frobenius and the spectral norm.

    References
    ----------
    Denton, Zaremba, Bruna, LeCun, Fergus, "Exploiting linear structure within convolutional
    networks for efficient evaluation", NeurIPS 2014; the baseline SVD of Liebenwein et al., NeurIPS
    2021.
    """

    name: ClassVar[str] = "svd_uniform"
    title: ClassVar[str] = "SVD, uniform"
    source: ClassVar[str] = "Denton et al., NeurIPS 2014"

    def compress(self, problem: NetworkProblem, compression: float) -> CompressedNetwork:
        """Return a copy of the network with factorized layers, within the budget.

        Raises
        ------
        LowRankError
            When the budget is out of reach, or a layer cannot be handled.
        """
        from lowrank_bench.network.approximators import compress_layerwise

        return compress_layerwise(problem, compression, "svd", "rank")
