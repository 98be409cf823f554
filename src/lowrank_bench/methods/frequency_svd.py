"""Frequency-weighted SVD: rows are weighted by how often they are used."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from lowrank_bench.methods.fields import UseWeighted

if TYPE_CHECKING:
    from lowrank_bench.linalg.decomposition import Projection
    from lowrank_bench.problem import Problem


class FrequencySvd(UseWeighted):
    """Project the rows onto the leading right singular vectors of the use-weighted matrix.

    Idea
        The squared error over the tokens of a text is Σ_i w_i ‖a_i − b_i‖², where w_i is the share
        of tokens that use row i. A V_k V_kᵀ, with V_k from the SVD of diag(√w) A, minimizes it
        among all matrices of rank k.
    Cost
        As `svd`.
    Guarantee
        The weighted error is the least possible. All weights are positive, so that rare rows
        decide the directions that frequent rows leave free.

    Parameters
    ----------
    weights
        `vocabulary`: estimated from the order of the vocabulary and the table, without data;
        `counts`: counted in the training text and smoothed by that estimate.

    References
    ----------
    Chen, Si, Li, Chelba, Hsieh, "GroupReduce: block-wise low-rank approximation for neural language
    model shrinking", NeurIPS 2018, which does this inside each block of rows.
    """

    name: ClassVar[str] = "frequency_svd"
    title: ClassVar[str] = "Frequency-weighted SVD"
    source: ClassVar[str] = "Chen et al., NeurIPS 2018"

    weights: Literal["vocabulary", "counts"] = Field(
        default="vocabulary", description="where the weights of the rows come from"
    )

    def decompose(self, problem: Problem) -> Projection:
        """Return the projection onto the right singular vectors of the weighted matrix."""
        from lowrank_bench.linalg.decomposition import Projection, orient
        from lowrank_bench.linalg.frequency.row_use import row_use
        from lowrank_bench.linalg.gram import numerical_rank, right_singular

        weights = row_use(problem, self.weights)
        weighted = problem.matrix * (weights / weights.mean()).sqrt().unsqueeze(1)
        values, vectors = right_singular(weighted)
        info = {"matrix_rank": numerical_rank(values, *problem.matrix.shape)}
        return Projection(problem.matrix, orient(vectors), info)
