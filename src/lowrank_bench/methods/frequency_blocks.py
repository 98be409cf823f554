"""Blocks of rows with similar frequency, each with its own rank, under one budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from lowrank_bench.methods.fields import UseWeighted

if TYPE_CHECKING:
    from lowrank_bench.linalg.decomposition import Single
    from lowrank_bench.problem import Problem


class FrequencyBlocks(UseWeighted):
    """Sort the rows by use, cut them into blocks, and keep each at its own rank or dense.

    Idea
        Most of the budget should go to the rows that texts use most. The rows are sorted by w_i,
        the use of row i, and cut into blocks. A block of s rows keeps rank r of its SVD weighted by
        √w, which costs r·(s + d) numbers, or all its rows, which costs s·d. The cuts, chosen among
        15 positions a factor of √2 apart, and the ranks minimize Σ_i w_i ‖a_i − b_i‖² jointly: a
        longest path with a budget, solved to a millionth of the matrix's weighted energy.
    Cost
        The eigenvalues of 136 d×d matrices, which are sums of 16 Gram matrices.
    Guarantee
        Up to that millionth, no other ranks and no other cuts at these positions have a smaller
        weighted error. This includes `frequency_svd` at the same budget less the labels.

    Parameters
    ----------
    weights
        `vocabulary`: estimated from the order of the vocabulary and the table, without data;
        `counts`: counted in the training text and smoothed by that estimate.
    cuts
        `free`: the best of the positions above; `equal`: eight blocks with the same number of rows.

    References
    ----------
    Chen, Si, Li, Chelba, Hsieh, "GroupReduce", NeurIPS 2018, whose ranks follow the mean frequency
    of a block; Baevski and Auli, "Adaptive input representations", ICLR 2019, trained in blocks.
    """

    name: ClassVar[str] = "frequency_blocks"
    title: ClassVar[str] = "Frequency blocks"
    source: ClassVar[str] = "this suite; after Chen et al., NeurIPS 2018"
    nested: ClassVar[bool] = False
    quiet: ClassVar[tuple[str, ...]] = ("cuts",)
    label_bytes: ClassVar[int] = 1

    weights: Literal["vocabulary", "counts"] = Field(
        default="vocabulary", description="where the weights of the rows come from"
    )
    cuts: Literal["free", "equal"] = Field(
        default="free", description="where the rows are cut: optimized, or into equal blocks"
    )

    def decompose(self, problem: Problem) -> Single:
        """Return factors of at most rank·(n + d) numbers, labels included.

        Raises
        ------
        LowRankError
            When the budget does not allow rank 1 in every block.
        """
        from lowrank_bench.linalg.decomposition import Single
        from lowrank_bench.linalg.frequency.blocks import (
            equal_cuts,
            geometric_cuts,
            weighted_blocks,
        )
        from lowrank_bench.linalg.frequency.row_use import row_use

        rank, rows = problem.wanted_rank, len(problem.matrix)
        free = self.cuts == "free"
        cuts = geometric_cuts(rows) if free else equal_cuts(rows, min(8, rows))
        weights = row_use(problem, self.weights)
        budget = rank * sum(problem.matrix.shape)
        factors, info = weighted_blocks(problem.matrix, weights, budget, cuts, free)
        return Single(factors, rank, info)
