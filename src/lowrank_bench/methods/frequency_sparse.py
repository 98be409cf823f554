"""Frequent rows kept as they are, and rare rows written as combinations of a few of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from lowrank_bench.methods.fields import UseWeighted

if TYPE_CHECKING:
    from lowrank_bench.linalg.decomposition import Single
    from lowrank_bench.problem import Problem


class FrequencySparse(UseWeighted):
    """Keep the m most used rows, and write every other row as a combination of a few of them.

    Idea
        The embedding table of a language model has a flat spectrum: no low-dimensional subspace
        holds its rows, but each row lies near the span of a few others. Frequent words are worth
        storing exactly, and the stored rows are a dictionary of thousands of atoms at no extra
        cost. Row i becomes Σ_t c_it a_{j(i,t)}, with t_i terms; j(i,·) come from greedy least
        squares. m and all t_i minimize Σ_i w_i ‖a_i − b_i‖², where w_i is the use of row
        i, counted in the training text or estimated from the vocabulary's order and the table.
    Cost
        n·m·d operations for each of at most 9 steps, and as long again for the choices.
    Guarantee
        The m rows are exact; no other row is longer than it was, up to rounding. Numbers kept:
        m·d + z for z terms; with 16 bits a term and 8 bits a row, they stay within rank·(n + d).

    Parameters
    ----------
    weights
        `vocabulary`: estimated from the order of the vocabulary and the table, without data;
        `counts`: counted in the training text and smoothed by that estimate; `uniform`: all rows
        have the same weight.
    limit
        Largest number of terms of a row.

    References
    ----------
    Chen, Mou, Xu, Li, Jin, "Compressing neural language models by sparse word representations", ACL
    2016, which keeps common words and trains the combinations with an ℓ1 penalty.
    """

    name: ClassVar[str] = "frequency_sparse"
    title: ClassVar[str] = "Frequent rows and sparse combinations"
    source: ClassVar[str] = "this suite; after Chen et al., ACL 2016"
    nested: ClassVar[bool] = False
    quiet: ClassVar[tuple[str, ...]] = ("limit",)

    limit: int = Field(
        default=64, ge=1, le=254, description="largest number of terms of a row, 1 to 254"
    )

    def decompose(self, problem: Problem) -> Single:
        """Return factors of at most rank·(n + d) numbers, indices included.

        Raises
        ------
        LowRankError
            When the budget does not allow a single row.
        """
        from lowrank_bench.linalg.decomposition import Single
        from lowrank_bench.linalg.frequency.row_use import row_use
        from lowrank_bench.linalg.frequency.sparse_rows import sparse_rows

        rank = problem.wanted_rank
        weights = row_use(problem, self.weights)
        budget = rank * sum(problem.matrix.shape)
        factors, info = sparse_rows(problem.matrix, weights, budget, self.limit)
        return Single(factors, rank, info)
