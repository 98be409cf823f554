"""The control for MESSI: cut the rows into parts regardless of their values, one SVD each."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from lowrank_bench.errors import LowRankError
from lowrank_bench.methods.base import MatrixMethod

if TYPE_CHECKING:
    from lowrank_bench.linalg.clustering.partition import PartitionedProjection
    from lowrank_bench.linalg.decomposition import Decomposition
    from lowrank_bench.problem import Problem


class PartitionSvd(MatrixMethod):
    """Cut the rows into parts of equal size, and project each onto its own singular vectors.

    Idea
        MESSI without its clustering, at the same budget: the gain of MESSI over this is what the
        clusters contribute. In a vocabulary sorted by frequency, consecutive parts hold words of
        similar frequency.
    Cost
        One Gram matrix in all, n·d² operations, and the eigenvectors of k d×d matrices.
    Guarantee
        The least Σ distance² for these parts.

    Parameters
    ----------
    parts
        Number of parts.
    order
        "consecutive" cuts the rows in their order, "random" assigns them to parts at random.
    seed
        Seed of the random parts.

    References
    ----------
    Liebenwein, Maalouf, Feldman, Rus, "Compressing Neural Networks: Towards Determining the Optimal
    Layer-wise Decomposition", NeurIPS 2021, which slices channels instead of clustering them.
    """

    name: ClassVar[str] = "partition_svd"
    title: ClassVar[str] = "SVD of parts"
    source: ClassVar[str] = "Liebenwein et al., NeurIPS 2021"
    row_order: ClassVar[bool] = True
    quiet: ClassVar[tuple[str, ...]] = ("parts", "seed")
    label_bytes: ClassVar[int] = 1

    parts: int = Field(default=5, ge=1, le=255, description="number of parts, 1 <= parts <= 255")
    order: Literal["consecutive", "random"] = Field(
        default="consecutive", description="how the rows are cut: consecutive or random"
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="seed of random parts")

    @classmethod
    def decomposition_class(cls) -> type[Decomposition]:
        """Return the class that keeps the parts and a basis for each."""
        from lowrank_bench.linalg.clustering.partition import PartitionedProjection

        return PartitionedProjection

    def decompose(self, problem: Problem) -> PartitionedProjection:
        """Return the projection of each part onto its right singular vectors.

        Raises
        ------
        LowRankError
            When there are fewer rows than parts.
        """
        import torch

        from lowrank_bench.linalg.clustering.partition import (
            PartitionedProjection,
            consecutive_parts,
            leading_vectors,
        )
        from lowrank_bench.linalg.factors import label_bits

        matrix = problem.matrix
        rows, columns = matrix.shape
        if rows < self.parts:
            raise LowRankError(f"{rows} rows cannot be cut into {self.parts} parts; take fewer")
        labels = consecutive_parts(rows, self.parts)
        if self.order == "random":
            generator = torch.Generator().manual_seed(self.seed)
            labels = labels[torch.randperm(rows, generator=generator)]
        labels = labels.to(matrix.device)
        # The smallest part bounds the rank; above it, more numbers are kept than the matrix has.
        rank = min(rows // self.parts, columns)
        bases = leading_vectors(matrix, labels, self.parts, rank)
        info = {"label_bits": label_bits(rows, self.parts)}
        return PartitionedProjection(matrix, labels, bases, info)

    def n_parameters(self, rank: int, rows: int, columns: int) -> int:
        """Return the numbers kept, n·j + k·j·d, as MESSI does."""
        return rank * (rows + self.parts * columns)
