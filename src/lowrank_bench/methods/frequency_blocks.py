"""Rows in blocks of like frequency, each with its own rank, the budget divided exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from lowrank_bench.methods.fields import UseWeighted

if TYPE_CHECKING:
    from lowrank_bench.linalg.decomposition import Single
    from lowrank_bench.problem import Problem


class FrequencyBlocks(UseWeighted):
    """Sort the rows by use, cut them into blocks, and give each block a rank or keep it whole.

    Idea
        The budget belongs where the text is. The rows are sorted by w_i, how often row i is used,
        and cut into blocks; a block of s rows keeps rank r of its SVD weighted by √w, for
        r·(s + d) numbers, or its rows as they are, for s·d. Where to cut, out of 15 places a
        factor of √2 apart, and which rank each block gets minimise Σ_i w_i ‖a_i − b_i‖² together:
        a longest path with a budget, solved to a millionth of the matrix's weighted energy.
    Cost
        The eigenvalues of 136 d×d matrices, which are sums of 16 Gram matrices.
    Guarantee
        No blocks at these places with any ranks have a smaller weighted error, but for that
        millionth; in particular `frequency_svd` at this budget less the labels has not.

    Parameters
    ----------
    weights
        `vocabulary`: from the order of the vocabulary and the table, without data; `counts`: from
        the training text, smoothed by the former.
    cuts
        `free`: the places above; `equal`: eight blocks of as many rows each.

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

    weights: Literal["vocabulary", "counts"] = Field(
        default="vocabulary", description="where the weights of the rows come from"
    )
    cuts: Literal["free", "equal"] = Field(
        default="free", description="where the blocks begin: chosen, or of equal size"
    )

    def decompose(self, problem: Problem) -> Single:
        """Return the factors that keep at most rank·(n + d) numbers, labels included.

        Raises
        ------
        LowRankError
            When the budget does not hold rank 1 of every block.
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
