"""Truncated SVD of every layer, at the same relative Frobenius error."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from lowrank_bench.methods.base import NetworkMethod

if TYPE_CHECKING:
    from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem


class SvdEnergy(NetworkMethod):
    """Factorize every layer by the SVD, so that all lose the same share of their energy.

    Idea
        Layer l keeps the smallest rank r with Σ_{i>r} σ_i² ≤ t·Σ σ_i². The share t is the smallest
        that fits the budget. A layer whose factors would be larger stays dense.
    Cost
        One SVD for each layer.
    Guarantee
        The largest relative Frobenius error of a layer is the least within the budget.

    References
    ----------
    Alvarez and Salzmann, "Compression-aware training of deep networks", NeurIPS 2017; the baseline
    SVD-Energy of Liebenwein et al., NeurIPS 2021.
    """

    name: ClassVar[str] = "svd_energy"
    title: ClassVar[str] = "SVD, energy"
    source: ClassVar[str] = "Alvarez and Salzmann, NeurIPS 2017"

    def compress(self, problem: NetworkProblem, compression: float) -> CompressedNetwork:
        """Return a copy of the network with factorized layers, within the budget.

        Raises
        ------
        LowRankError
            When the budget is out of reach, or a layer cannot be handled.
        """
        from lowrank_bench.layerwise.approximators import compress_layerwise

        return compress_layerwise(problem, compression, "svd", "energy")
