"""Decompositions: computed once for a matrix, they give the factors of every rank."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.factors import Factors


class Decomposition(ABC):
    """What a method computes once for an n×d matrix, to serve all ranks.

    Attributes
    ----------
    info
        Facts about the computation as JSON can hold them: iterations, residual.
    """

    info: dict[str, Any]

    @abstractmethod
    def factors(self, rank: int) -> Factors:
        """Return the factors of that rank.

        Raises
        ------
        LowRankError
            When `rank` is not in 1..min(n, d).
        """

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return what is kept on disk; with the matrix itself it restores the decomposition."""

    @classmethod
    @abstractmethod
    def from_tensors(cls, matrix: Tensor, tensors: Mapping[str, Tensor]) -> Self:
        """Return the decomposition of `matrix` that gave `tensors`."""


class Projection(Decomposition):
    """The rows of A projected onto the span of the leading basis vectors: A ≈ (A V_k) V_kᵀ.

    Parameters
    ----------
    matrix
        Tensor A, n×d, float64.
    basis
        Tensor V, d×r with r ≤ min(n, d): orthonormal columns, the most important first.
    info
        Facts about how the basis was found.
    """

    def __init__(self, matrix: Tensor, basis: Tensor, info: dict[str, Any] | None = None) -> None:
        self.matrix, self.basis, self.info = matrix, basis, dict(info or {})

    def factors(self, rank: int) -> Factors:
        """Return (A V_k, V_kᵀ) for k = `rank`."""
        limit = self.basis.shape[1]
        if not 1 <= rank <= limit:
            shape = "x".join(str(size) for size in self.matrix.shape)
            raise LowRankError(f"rank {rank} of a {shape} matrix is not in 1..{limit}")
        leading = self.basis[:, :rank]
        return Factors(self.matrix @ leading, leading.T.contiguous())

    def tensors(self) -> dict[str, Tensor]:
        """Return the basis alone: the left factor follows from it and the matrix."""
        return {"basis": self.basis}

    @classmethod
    def from_tensors(cls, matrix: Tensor, tensors: Mapping[str, Tensor]) -> Self:
        """Return the projection of `matrix` onto the stored basis."""
        basis = tensors["basis"].to(matrix)
        if basis.shape[0] != matrix.shape[1]:
            raise LowRankError(
                f"the basis is for {basis.shape[0]} columns, the matrix has {matrix.shape[1]}"
            )
        return cls(matrix, basis)


def orient(basis: Tensor) -> Tensor:
    """Return the columns with signs such that the largest entry of each is positive."""
    largest = basis.abs().argmax(dim=0, keepdim=True)
    return basis * torch.where(basis.gather(0, largest) < 0, -1.0, 1.0).to(basis)


def complete(basis: Tensor, count: int) -> Tensor:
    """Return `basis`, d×r orthonormal, with orthonormal columns added up to `count` ≤ d."""
    dimension, rank = basis.shape
    if rank >= count:
        return basis
    identity = torch.eye(dimension, count - rank, dtype=basis.dtype, device=basis.device)
    # Householder's Q is orthonormal whatever the columns added; its first r span the basis.
    added = torch.linalg.qr(torch.cat([basis, identity], dim=1)).Q[:, rank:]
    return torch.cat([basis, added], dim=1)
