"""Decompositions: computed once per matrix, they yield the factors of every rank."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.factors import Approximation, Factors, restore

RANK = "rank"
BLOCK = 8192  # rows per block where precisions differ


class Decomposition(ABC):
    """What a method computes once for an n×d matrix and then uses for all ranks.

    Attributes
    ----------
    info
        Facts about the computation, serializable as JSON: iterations, residual.
    """

    info: dict[str, Any]

    @abstractmethod
    def factors(self, rank: int) -> Approximation:
        """Return the factors of the given rank.

        Raises
        ------
        LowRankError
            If `rank` is not in 1..min(n, d).
        """

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors to save; with the matrix they restore the decomposition."""

    @classmethod
    @abstractmethod
    def from_tensors(cls, matrix: Tensor, tensors: Mapping[str, Tensor]) -> Self:
        """Return the decomposition of `matrix` from its saved `tensors`."""


class Projection(Decomposition):
    """The rows of A projected onto the span of the leading basis vectors: A ≈ (A V_k) V_kᵀ.

    Parameters
    ----------
    matrix
        Tensor A, n×d, float64.
    basis
        Tensor V, d×r with r ≤ min(n, d): orthonormal columns, the most important first.
    info
        Facts about the computation of the basis.
    mean
        Tensor d, subtracted from the rows before the projection and kept as a bias, or None.
    singular
        Singular values of A, where the basis are all its right singular vectors; not stored.
    """

    def __init__(
        self,
        matrix: Tensor,
        basis: Tensor,
        info: dict[str, Any] | None = None,
        mean: Tensor | None = None,
        singular: Tensor | None = None,
    ) -> None:
        self.matrix, self.basis, self.mean, self.singular = matrix, basis, mean, singular
        self.info = dict(info or {})

    def factors(self, rank: int) -> Factors:
        """Return (A V_k, V_kᵀ) for k = `rank`, with the mean, if any, as bias."""
        limit = self.basis.shape[1]
        if not 1 <= rank <= limit:
            shape = "x".join(str(size) for size in self.matrix.shape)
            raise LowRankError(f"rank {rank} of a {shape} matrix is not in 1..{limit}")
        leading = self.basis[:, :rank]
        if self.matrix.dtype != leading.dtype:
            return self._narrow(leading)
        left = self.matrix @ leading
        if self.mean is not None:
            # (A − 1mᵀ)V_k without an n×d copy of the centred matrix.
            left -= self.mean @ leading
        return Factors(left, leading.T.contiguous(), self.mean)

    def over(self, matrix: Tensor) -> "Projection":
        """Return the projection of the same matrix in another precision.

        Its factors are computed as before, one block of rows at a time, and have that precision.
        """
        return Projection(matrix, self.basis, self.info, self.mean, self.singular)

    def _narrow(self, leading: Tensor) -> Factors:
        shift = None if self.mean is None else self.mean @ leading
        left = self.matrix.new_empty(len(self.matrix), leading.shape[1])
        for start in range(0, len(left), BLOCK):
            part = self.matrix[start : start + BLOCK].to(leading) @ leading
            left[start : start + BLOCK] = part if shift is None else part.sub_(shift)
        mean = None if self.mean is None else self.mean.to(left)
        return Factors(left, leading.T.contiguous().to(left), mean)

    def tensors(self) -> dict[str, Tensor]:
        """Return the basis and the mean; the left factor follows from them and the matrix."""
        stored = {"basis": self.basis}
        return stored if self.mean is None else {**stored, "mean": self.mean}

    @classmethod
    def from_tensors(cls, matrix: Tensor, tensors: Mapping[str, Tensor]) -> Self:
        """Return the projection of `matrix` onto the stored basis."""
        basis = tensors["basis"].to(matrix)
        if basis.shape[0] != matrix.shape[1]:
            raise LowRankError(
                f"the basis is for {basis.shape[0]} columns, the matrix has {matrix.shape[1]}"
            )
        mean = tensors.get("mean")
        return cls(matrix, basis, mean=None if mean is None else mean.to(matrix))


class Single(Decomposition):
    """The decomposition of a method whose ranks are not nested: factors of one rank.

    Parameters
    ----------
    factors
        The factors, stored as float32.
    rank
        The rank that the factors were computed for.
    info
        Facts about the computation.
    """

    def __init__(
        self, factors: Approximation, rank: int, info: dict[str, Any] | None = None
    ) -> None:
        self._factors, self.rank, self.info = factors, rank, dict(info or {})

    def factors(self, rank: int) -> Approximation:
        """Return the factors; `rank` must be the one that they were computed for."""
        if rank != self.rank:
            raise LowRankError(f"this decomposition is for rank {self.rank}, not {rank}")
        return self._factors

    def tensors(self) -> dict[str, Tensor]:
        """Return the factors in float32 and the rank."""
        small = self._factors.to(dtype=torch.float32).tensors()
        return {**small, RANK: torch.tensor(self.rank)}

    @classmethod
    def from_tensors(cls, matrix: Tensor, tensors: Mapping[str, Tensor]) -> Self:
        """Return the stored factors, in the precision of `matrix`."""
        parts = {name: value for name, value in tensors.items() if name != RANK}
        factors = restore(parts).to(dtype=matrix.dtype, device=matrix.device)
        return cls(factors, int(tensors[RANK]))


def orient(basis: Tensor) -> Tensor:
    """Return the columns with signs that make the entry of largest magnitude positive."""
    # Singular vectors are unique up to their sign; a fixed one makes results reproducible.
    largest = basis.abs().argmax(dim=0, keepdim=True)
    return basis * torch.where(basis.gather(0, largest) < 0, -1.0, 1.0).to(basis)


def complete(basis: Tensor, count: int) -> Tensor:
    """Extend `basis`, d×r orthonormal, by orthonormal columns to `count` ≤ d of them."""
    dimension, rank = basis.shape
    if rank >= count:
        return basis
    identity = torch.eye(dimension, count - rank, dtype=basis.dtype, device=basis.device)
    # A Householder Q is orthonormal even if the input columns are dependent, and its first r
    # columns span the basis, so the remaining ones complete it.
    added = torch.linalg.qr(torch.cat([basis, identity], dim=1)).Q[:, rank:]
    return torch.cat([basis, added], dim=1)
