"""MESSI: cluster the rows around k subspaces, and factorize each cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from lowrank_bench.errors import LowRankError
from lowrank_bench.methods.base import MatrixMethod

if TYPE_CHECKING:
    from lowrank_bench.linalg.decomposition import Single
    from lowrank_bench.problem import Problem


class Messi(MatrixMethod):
    """Project each row onto the nearest of k subspaces of dimension j.

    Idea
        Rows near a union of subspaces need fewer dimensions each than rows near a single subspace.
        The subspaces come from projective clustering: fit one to each cluster, assign each row to
        the nearest, and repeat; the best of several starts is kept. Row i becomes A_i B_c B_cᵀ,
        where B_c is the basis of its cluster c. At k = 1 and q = 2 this is the SVD.
    Cost
        A step is 2·n·d·min(j, d − j)·k operations in float32, and the eigenvectors of k d×d
        matrices.
    Guarantee
        No step raises Σ distance^q. The result is a local minimum; the global one is NP-hard to
        find. Numbers kept: n·j + k·j·d. The labels, n·⌈log₂ k⌉ bits, are counted separately.

    Parameters
    ----------
    k
        Number of subspaces. At the same budget, more subspaces have a lower dimension each.
    q
        Power of the distance, 1 ≤ q ≤ 2; a smaller one gives outlying rows less weight.
    restarts
        Number of starts; the best is kept.
    steps
        Largest number of steps of a start; few starts reach it.
    seed
        Seed of the random starts.

    References
    ----------
    Maalouf, Lang, Rus, Feldman, "Deep Learning Meets Projective Clustering", ICLR 2021.
    """

    name: ClassVar[str] = "messi"
    title: ClassVar[str] = "MESSI"
    source: ClassVar[str] = "Maalouf et al., ICLR 2021"
    nested: ClassVar[bool] = False
    row_order: ClassVar[bool] = True
    quiet: ClassVar[tuple[str, ...]] = ("q", "restarts", "steps", "seed")
    label_bytes: ClassVar[int] = 1

    k: int = Field(default=5, ge=1, le=255, description="number of subspaces, 1 <= k <= 255")
    q: float = Field(default=2.0, ge=1, le=2, description="power of the distance, 1 <= q <= 2")
    restarts: int = Field(default=4, ge=1, description="number of starts, the best is kept")
    steps: int = Field(default=50, ge=1, description="largest number of steps of a start")
    seed: int = Field(default=0, ge=0, lt=2**63, description="seed of the starts")

    def decompose(self, problem: Problem) -> Single:
        """Return the factors whose subspaces have dimension j = `problem.rank`.

        Raises
        ------
        LowRankError
            When there are fewer than k·j rows, or fewer than j columns.
        """
        from lowrank_bench.linalg.clustering.partition import clustered
        from lowrank_bench.linalg.clustering.projective import projective_clustering
        from lowrank_bench.linalg.decomposition import Single
        from lowrank_bench.linalg.factors import label_bits

        matrix, rank = problem.matrix, problem.wanted_rank
        rows, columns = matrix.shape
        limit = min(rows // self.k, columns)
        if not 1 <= rank <= limit:
            raise LowRankError(
                f"messi with k = {self.k} on a {rows}x{columns} matrix takes subspaces of "
                f"dimension 1..{limit}, not {rank}; larger ones save nothing, take a smaller k"
            )
        clustering = projective_clustering(
            matrix,
            self.k,
            rank,
            q=self.q,
            restarts=self.restarts,
            steps=self.steps,
            seed=self.seed,
        )
        info = {
            "cost": clustering.cost,
            "restart_costs": list(clustering.restart_costs),
            "steps": clustering.steps,
            "converged": clustering.converged,
            "label_bits": label_bits(rows, self.k),
        }
        return Single(clustered(matrix, clustering.labels, clustering.bases), rank, info)

    def n_parameters(self, rank: int, rows: int, columns: int) -> int:
        """Return the numbers kept, n·j + k·j·d; the labels are counted separately."""
        return rank * (rows + self.k * columns)
