"""Frequent rows kept whole, and rare ones combined from a few of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from lowrank_bench.methods.fields import UseWeighted

if TYPE_CHECKING:
    from lowrank_bench.linalg.decomposition import Single
    from lowrank_bench.problem import Problem


class FrequencySparse(UseWeighted):
    """Keep the m rows that are used most; write every other row as a sum of a few of these.

    Idea
        A table of words has a flat spectrum: no subspace of low dimension holds its rows, but each
        row lies near the span of a few others. Frequent words are worth storing whole, and being
        stored they are a dictionary of thousands of atoms that costs nothing more. Row i becomes
        Σ_t c_it a_{j(i,t)}, with the rows j(i,·) from orthogonal matching pursuit, and t_i terms.
        m and all t_i minimise Σ_i w_i ‖a_i − b_i‖², w_i being how often row i is used: in the
        training text, or as the vocabulary's order and the table itself tell.
    Cost
        2·n·m·d operations for each of about 15 steps: minutes for the table of BERT on one core.
    Guarantee
        The m rows are exact; no other row is longer than it was, up to rounding. Numbers kept:
        m·d + z for z terms; with 16 bits a term and 8 a row they stay within rank·(n + d).

    Parameters
    ----------
    weights
        `vocabulary`: from the order of the vocabulary and the table, without data; `counts`: from
        the training text, smoothed by the former; `uniform`: all rows alike.
    limit
        Most terms of a row.

    References
    ----------
    Chen, Mou, Xu, Li, Jin, "Compressing neural language models by sparse word representations", ACL
    2016, where common words are kept and the combinations are trained with an ℓ1 penalty.
    """

    name: ClassVar[str] = "frequency_sparse"
    title: ClassVar[str] = "Frequent rows and sparse combinations"
    source: ClassVar[str] = "this suite; after Chen et al., ACL 2016"
    nested: ClassVar[bool] = False
    quiet: ClassVar[tuple[str, ...]] = ("limit",)

    limit: int = Field(default=64, ge=1, le=254, description="most terms of a row, 1 to 254")

    def decompose(self, problem: Problem) -> Single:
        """Return the factors that keep at most rank·(n + d) numbers, indices included.

        Raises
        ------
        LowRankError
            When the budget does not hold one row.
        """
        from lowrank_bench.linalg.decomposition import Single
        from lowrank_bench.linalg.frequency.row_use import row_use
        from lowrank_bench.linalg.frequency.sparse_rows import sparse_rows

        rank = problem.wanted_rank
        weights = row_use(problem, self.weights)
        budget = rank * sum(problem.matrix.shape)
        factors, info = sparse_rows(problem.matrix, weights, budget, self.limit)
        return Single(factors, rank, info)
