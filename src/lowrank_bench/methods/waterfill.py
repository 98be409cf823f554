"""Bits per row by use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from lowrank_bench.methods.fields import UseCoded

if TYPE_CHECKING:
    from lowrank_bench.linalg.factors import Approximation
    from lowrank_bench.problem import Problem


class Waterfill(UseCoded):
    """Round each row to a number of bits that follows its use.

    Idea
        Reverse water-filling over rows alone: one more bit for a row lowers its squared error by a
        known share, so the bits go where use times length is largest. It is `transform_code`
        without a basis, and `rtn` where all rows are used alike.
    Cost
        A sort of the rows, and one pass to round them.
    Guarantee
        The allocation is within one step of the best on its grid, which a linear program bounds.

    Parameters
    ----------
    weights
        Where the use of the rows comes from: `vocabulary`, `counts` or `uniform`.
    alpha
        Exponent of the use: 0 treats all rows alike, 1 minimizes the expected squared error.

    References
    ----------
    Cover and Thomas, "Elements of Information Theory", section 10.3.3.
    """

    name: ClassVar[str] = "waterfill"
    title: ClassVar[str] = "Bits per row by use"
    source: ClassVar[str] = "Cover and Thomas, Elements of Information Theory, section 10.3.3"
    quiet: ClassVar[tuple[str, ...]] = ("alpha",)

    def code(self, problem: Problem, n_bytes: int) -> tuple[Approximation, dict[str, Any]]:
        """Return the code, of at most `n_bytes`.

        Raises
        ------
        LowRankError
            When the budget does not hold the tables of the code.
        """
        from lowrank_bench.linalg.coding.coder import use_weights, waterfill
        from lowrank_bench.linalg.frequency.row_use import row_use

        use = use_weights(row_use(problem, self.weights), self.alpha)
        return waterfill(problem.matrix, use, n_bytes)
