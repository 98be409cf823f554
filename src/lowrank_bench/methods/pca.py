"""Project each layer onto the principal components of its responses."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from lowrank_bench.methods.base import NetworkMethod

if TYPE_CHECKING:
    from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem


class Pca(NetworkMethod):
    """Project the responses of every layer onto their leading principal components.

    Idea
        Let y = W x + b on calibration inputs, with mean ȳ and the leading eigenvectors U_k of its
        covariance. Then y ≈ U_k U_kᵀ (y − ȳ) + ȳ, which is a factor U_kᵀ W, a factor U_k and a new
        bias. Ranks maximize the product over the layers of the share of variance kept, within the
        budget. This is the paper's measure of the accuracy of the whole network; its greedy search
        is replaced by a sum of logarithms, maximized to 1e-4.
    Cost
        One pass over the calibration data, and the eigenvectors of an f×f matrix for each layer.
    Guarantee
        Each layer's squared error on the calibration inputs is the least of its rank. There is no
        guarantee for errors that pass through several layers: this is the paper's linear case,
        without its corrections for the nonlinearity and for the preceding layers.

    References
    ----------
    Zhang, Zou, Ming, He, Sun, "Efficient and accurate approximations of nonlinear convolutional
    networks", CVPR 2015, sections 2.1 and 2.4.
    """

    name: ClassVar[str] = "pca"
    title: ClassVar[str] = "PCA"
    source: ClassVar[str] = "Zhang et al., CVPR 2015"
    facts: ClassVar[tuple[str, ...]] = ("inputs",)

    def compress(self, problem: NetworkProblem, compression: float) -> CompressedNetwork:
        """Return a copy of the network with factorized layers, within the budget.

        Raises
        ------
        LowRankError
            When the budget is out of reach, or a layer cannot be handled.
        """
        from lowrank_bench.layerwise.approximators import compress_layerwise

        return compress_layerwise(problem, compression, "whitened", "product")
