"""Rows partitioned by labels, each part approximated by its own truncated SVD."""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.decomposition import Decomposition, complete, orient
from lowrank_bench.linalg.factors import ClusteredFactors
from lowrank_bench.linalg.gram import right_singular


def leading_vectors(
    matrix: Tensor, labels: Tensor, parts: int, rank: int, scale: Tensor | None = None
) -> Tensor:
    """Return the leading right singular vectors of each part of a row partition.

    Parameters
    ----------
    matrix
        Tensor A, n×d, float64, finite.
    labels
        Tensor n in 0..k−1: the part of each row.
    parts, rank
        k, and the number j ≤ d of vectors per part.
    scale
        Tensor n: factor of each row, applied first, or None.

    Returns
    -------
    Tensor
        k×d×j: orthonormal columns, the most important first. For a part with fewer than j rows
        the remaining columns are arbitrary.
    """
    bases = matrix.new_empty(parts, matrix.shape[1], rank)
    for part in range(parts):
        members = labels == part
        rows = matrix[members] if scale is None else matrix[members] * scale[members, None]
        # An empty part has d×0 vectors; `complete` fills up to j columns.
        vectors = right_singular(rows)[1] if len(rows) else rows.T
        bases[part] = complete(orient(vectors)[:, :rank] if len(rows) else vectors, rank)
    return bases


def clustered(matrix: Tensor, labels: Tensor, bases: Tensor) -> ClusteredFactors:
    """Return each row projected onto the basis of its part.

    Parameters
    ----------
    matrix
        Tensor A, n×d.
    labels
        Tensor n in 0..k−1.
    bases
        Tensor k×d×j with orthonormal columns.
    """
    left = matrix.new_empty(len(matrix), bases.shape[2])
    for part, basis in enumerate(bases):
        members = labels == part
        left[members] = matrix[members] @ basis
    return ClusteredFactors(left, bases.transpose(1, 2).contiguous(), labels)


def consecutive_parts(rows: int, parts: int) -> Tensor:
    """Return labels that cut n rows, in order, into k parts whose sizes differ by at most 1."""
    return torch.arange(rows) * parts // rows


class PartitionedProjection(Decomposition):
    """Each part of the rows projected onto the leading vectors of its own basis.

    Parameters
    ----------
    matrix
        Tensor A, n×d, float64.
    labels
        Tensor n, int64, in 0..k−1: the part of each row.
    bases
        Tensor k×d×r: for each part orthonormal columns, the most important first.
    info
        Facts about the computation of labels and bases.
    """

    def __init__(
        self, matrix: Tensor, labels: Tensor, bases: Tensor, info: dict[str, Any] | None = None
    ) -> None:
        self.matrix, self.labels, self.bases = matrix, labels, bases
        self.info = dict(info or {})

    def factors(self, rank: int) -> ClusteredFactors:
        """Return the factors whose bases are the leading `rank` vectors of each part."""
        limit = self.bases.shape[2]
        if not 1 <= rank <= limit:
            shape = "x".join(str(size) for size in self.matrix.shape)
            raise LowRankError(
                f"rank {rank} of a {shape} matrix in {len(self.bases)} parts is not in 1..{limit}"
            )
        return clustered(self.matrix, self.labels, self.bases[:, :, :rank])

    def tensors(self) -> dict[str, Tensor]:
        """Return labels and bases; the left factors follow from them and the matrix."""
        return {"labels": self.labels, "bases": self.bases}

    @classmethod
    def from_tensors(cls, matrix: Tensor, tensors: Mapping[str, Tensor]) -> Self:
        """Return the projection of the parts of `matrix` onto the stored bases."""
        labels, bases = tensors["labels"], tensors["bases"].to(matrix)
        if (len(labels), bases.shape[1]) != matrix.shape:
            shape = "x".join(str(size) for size in matrix.shape)
            raise LowRankError(
                f"the parts are for a {len(labels)}x{bases.shape[1]} matrix, this one is {shape}"
            )
        return cls(matrix, labels.to(matrix.device, torch.int64), bases)
