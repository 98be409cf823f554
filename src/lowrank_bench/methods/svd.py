"""Truncated SVD: the best approximation in the Frobenius norm, of a matrix or of every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from lowrank_bench.methods.base import MatrixMethod, NetworkMethod, NetworkPart

if TYPE_CHECKING:
    from lowrank_bench.layerwise.approximators import compress_layerwise
    from lowrank_bench.linalg.decomposition import Projection
    from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem
    from lowrank_bench.problem import Problem
else:
    compress_layerwise = NetworkPart("lowrank_bench.layerwise.approximators", "compress_layerwise")


class Svd(MatrixMethod, NetworkMethod):
    """Project the rows onto the span of the k leading right singular vectors.

    Idea
        Of all matrices of rank k, A V_k V_kᵀ is nearest to A in the Frobenius and in the spectral
        norm. In a whole network, layer l keeps rank ⌈t·r_l⌉ of its full rank r_l. The share t is
        the largest that fits the budget; a layer whose factors would be larger stays dense.
    Cost
        One Gram matrix, n·d² operations, and the eigenvectors of a d×d matrix; a QR factorization
        instead of the Gram matrix where the spectrum is too steep for it.
    Guarantee
        ‖A − A V_k V_kᵀ‖_F² = Σ_{j>k} σ_j², the least possible.

    References
    ----------
    Eckart and Young, "The approximation of one matrix by another of lower rank", Psychometrika 1
    (1936). For whole networks: Denton, Zaremba, Bruna, LeCun, Fergus, "Exploiting linear structure
    within convolutional networks for efficient evaluation", NeurIPS 2014; the baseline SVD of
    Liebenwein et al., NeurIPS 2021.
    """

    name: ClassVar[str] = "svd"
    title: ClassVar[str] = "Truncated SVD"
    source: ClassVar[str] = "Eckart and Young, Psychometrika 1, 1936"
    targets: ClassVar[tuple[str, ...]] = ("embedding", "linear", "conv")

    def decompose(self, problem: Problem) -> Projection:
        """Return the projection onto the right singular vectors of the matrix."""
        from lowrank_bench.linalg.decomposition import Projection, orient
        from lowrank_bench.linalg.gram import numerical_rank, right_singular

        matrix = problem.matrix
        values, vectors = right_singular(matrix)
        info = {"matrix_rank": numerical_rank(values, *matrix.shape)}
        return Projection(matrix, orient(vectors), info, singular=values)

    def compress(self, problem: NetworkProblem, compression: float) -> CompressedNetwork:
        """Return a copy of the network with factorized layers, within the budget.

        Raises
        ------
        LowRankError
            When the budget is out of reach, or a layer cannot be handled.
        """
        return compress_layerwise(problem, compression, "svd", "rank")
