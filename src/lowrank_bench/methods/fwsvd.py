"""Fisher-weighted SVD: rows are weighted by how much the task's loss depends on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from lowrank_bench.methods.base import MatrixMethod

if TYPE_CHECKING:
    from lowrank_bench.linalg.decomposition import Projection
    from lowrank_bench.problem import Problem


class Fwsvd(MatrixMethod):
    """Project the rows onto the leading right singular vectors of the Fisher-weighted matrix.

    Idea
        An error in row i raises the loss by about F_i times its squared length, where F_i is the
        Fisher information of the loss, summed over the row. A V_k V_kᵀ, with V_k from the SVD of
        diag(√F) A, minimizes Σ_i F_i ‖a_i − b_i‖² among all matrices of rank k.
    Cost
        As `svd`, after one backward pass over at most 2,048 training rows.
    Guarantee
        The weighted error is the least possible. There is no guarantee for rows with F_i = 0, which
        the training text does not use; `floor` gives them a small weight.

    Parameters
    ----------
    floor
        Added to the weights after scaling them to a maximum of one.

    References
    ----------
    Hsu et al., "Language model compression with weighted low-rank factorization", ICLR 2022.
    """

    name: ClassVar[str] = "fwsvd"
    title: ClassVar[str] = "Fisher-weighted SVD"
    source: ClassVar[str] = "Hsu et al., ICLR 2022"
    facts: ClassVar[tuple[str, ...]] = ("fisher",)
    quiet: ClassVar[tuple[str, ...]] = ("floor",)

    floor: float = Field(
        default=1e-5, ge=0, le=1, description="added to the weights, whose maximum is one"
    )

    def decompose(self, problem: Problem) -> Projection:
        """Return the projection onto the right singular vectors of the weighted matrix."""
        from lowrank_bench.linalg.decomposition import Projection, orient
        from lowrank_bench.linalg.gram import numerical_rank, right_singular

        fisher = problem.fact("fisher")
        weights = fisher / fisher.max().clamp(min=1e-300) + self.floor
        weighted = problem.matrix * weights.sqrt().unsqueeze(1)
        values, vectors = right_singular(weighted)
        info = {
            "matrix_rank": numerical_rank(values, *problem.matrix.shape),
            "rows_without_information": int((fisher == 0).sum()),
        }
        return Projection(problem.matrix, orient(vectors), info)
