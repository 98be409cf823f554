"""Factors in few bits: any approximation with its real numbers rounded and its integers packed.

Real numbers are stored in a `Precision`; what all rows share, such as bases, in at least eight
bits. Labels, numbers of terms and row indices take ⌈log₂⌉ of the values that they can have.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.coding.coded import Coded, exponent_of, power
from lowrank_bench.linalg.coding.integers import bits_of, integer_bytes, pack_integers
from lowrank_bench.linalg.coding.precision import HALF, Precision, named, whole
from lowrank_bench.linalg.coding.readers import (
    BlockReader,
    ClusterReader,
    FactorReader,
    Reader,
    SparseReader,
)
from lowrank_bench.linalg.factors import (
    KEPT,
    LABELS,
    OFFSET,
    Approximation,
    BlockFactors,
    ClusteredFactors,
    Factors,
    SparseFactors,
)

FACTORS, CLUSTERED, BLOCKS, SPARSE = range(4)
KINDS = {Factors: FACTORS, ClusteredFactors: CLUSTERED, BlockFactors: BLOCKS, SparseFactors: SPARSE}
SIZES = 6  # int32 of `quantized`
BIAS = Precision(HALF)


@dataclass(frozen=True)
class QuantizedFactors(Coded, mark="quantized"):
    """An approximation whose tensors are rounded and packed.

    Attributes
    ----------
    stored
        All tensors by name: `quantized`, six int32 (kind, n, d, the rank or the most terms of a
        row, parts, and a power of two for all rows); for each tensor of real numbers of the
        approximation its codes and scales, as `left.codes`; `labels`, or `counts` and `atoms`.
    """

    stored: Mapping[str, Tensor]

    @classmethod
    def rebuild(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Return the object with these `tensors()`."""
        return cls(dict(tensors))

    def tensors(self) -> dict[str, Tensor]:
        """Return all stored tensors by name."""
        return dict(self.stored)

    @cached_property
    def sizes(self) -> list[int]:
        """The integers of `quantized`."""
        return [int(value) for value in self.stored[self.mark].tolist()]

    @property
    def shape(self) -> tuple[int, int]:
        """Return (n, d)."""
        return self.sizes[1], self.sizes[2]

    @property
    def rank(self) -> int:
        """Return the rank of the approximation, or the largest that its parts allow."""
        return min(self.shape) if self.sizes[0] == SPARSE else self.sizes[3]

    @cached_property
    def reader(self) -> Reader:
        """What computes rows, with all that rows share decoded; made at the first look-up."""
        kind, rows, columns, size, parts, _ = self.sizes
        if kind == FACTORS:
            return FactorReader.of(self.stored)
        if kind == CLUSTERED:
            return ClusterReader.of(self.stored, rows, parts)
        if kind == BLOCKS:
            return BlockReader.of(self.stored, rows, columns, parts)
        return SparseReader.of(self.stored, rows, size)

    def decode(self, ids: Tensor) -> Tensor:
        """Return the rows `ids`, m×d float32."""
        rows = self.reader.rows(ids)
        return rows * power(self.exponent) if self.exponent else rows


def quantize(factors: Approximation, precision: Precision, unit: float = 1.0) -> QuantizedFactors:
    """Return an approximation in a precision.

    Parameters
    ----------
    factors
        The approximation of a matrix A / `unit`.
    unit
        A power of two by which decoded rows are multiplied, near the largest entry of A, so that
        half precision never leaves its range.

    Raises
    ------
    LowRankError
        If the approximation is of another kind than those of `factors`, or not finite.
    """
    kind = kind_of(factors)
    size, parts = factors.rank, 0
    stored = _numbers(balanced(factors), precision)
    if isinstance(factors, ClusteredFactors | BlockFactors):
        parts = len(factors.right if isinstance(factors, ClusteredFactors) else factors.parts)
        stored[LABELS] = pack_integers(factors.labels.long(), bits_of(parts - 1))
    if isinstance(factors, SparseFactors):
        size = most_terms(factors)
        counts = factors.terms.long()
        counts = torch.where(counts == KEPT, size + 1, counts)
        stored["counts"] = pack_integers(counts, bits_of(size + 1))
        atoms = factors.indices.long() + OFFSET
        stored["atoms"] = pack_integers(atoms, bits_of(len(factors.rows) - 1))
    sizes = torch.tensor([kind, *factors.shape, size, parts, exponent_of(unit)], dtype=torch.int32)
    device = next(iter(stored.values())).device
    return QuantizedFactors({QuantizedFactors.mark: sizes.to(device), **stored})


def kind_of(factors: Approximation) -> int:
    """Return the number of a kind of approximation.

    Raises
    ------
    LowRankError
        For a kind of another file.
    """
    if type(factors) not in KINDS:
        known = ", ".join(kind.__name__ for kind in KINDS)
        raise LowRankError(
            f"quantize knows {known}, not {type(factors).__name__}; leave quantize out"
        )
    return KINDS[type(factors)]


def most_bytes(factors: Approximation, precision: Precision, rank: int | None = None) -> int:
    """Return the bytes of `quantize`, or a few more: some tensors in float16 need no shift.

    Parameters
    ----------
    rank
        Another rank than that of the factors: those of a projection and of clusters say what they
        would take at any.
    """
    kind_of(factors)
    total = 4 * SIZES
    n, d = factors.shape
    rank = factors.rank if rank is None else rank
    if isinstance(factors, Factors):
        total += precision.most_bytes(n, rank) + precision.shared.most_bytes(rank, d)
        total += 0 if factors.bias is None else BIAS.most_bytes(1, d)
    elif isinstance(factors, ClusteredFactors):
        parts = len(factors.right)
        total += precision.most_bytes(n, rank) + precision.shared.most_bytes(parts * rank, d)
        total += integer_bytes(n, bits_of(parts - 1))
    elif isinstance(factors, BlockFactors):
        for part in factors.parts:
            for name, value in part.tensors().items():
                shared = name == "right"
                total += (precision.shared if shared else precision).most_bytes(*value.shape)
        total += integer_bytes(n, bits_of(len(factors.parts) - 1))
    elif isinstance(factors, SparseFactors):
        m, z = len(factors.rows), len(factors.values)
        total += precision.most_bytes(m, d) + precision.most_bytes(*precision.vector_shape(z))
        total += integer_bytes(n, bits_of(most_terms(factors) + 1))
        total += integer_bytes(z, bits_of(m - 1))
    return total


def most_terms(factors: SparseFactors) -> int:
    """Return the largest number of terms of a row that is not kept."""
    counts = torch.where(factors.terms == KEPT, 0, factors.terms.long())
    return int(counts.max()) if len(counts) else 0


def balanced(factors: Approximation) -> Approximation:
    """Return the same matrix with columns of left factors of equal mean square.

    A row is rounded with one scale for all its entries, and entry j errs the result by its own
    error times the length of row j of `right`: with equal columns all directions lose the same
    share. What a column is divided by multiplies its row of `right`.
    """
    if isinstance(factors, Factors):
        left, right = _balanced(factors.left, factors.right)
        return Factors(left, right, factors.bias)
    if isinstance(factors, ClusteredFactors):
        left, right = factors.left.clone(), factors.right.clone()
        for cluster in range(len(right)):
            members = factors.labels == cluster
            left[members], right[cluster] = _balanced(left[members], right[cluster])
        return ClusteredFactors(left, right, factors.labels)
    if isinstance(factors, BlockFactors):
        parts = (
            Factors(*_balanced(part.left, part.right)) if isinstance(part, Factors) else part
            for part in factors.parts
        )
        return BlockFactors(factors.labels, tuple(parts))
    return factors


def _balanced(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    if not len(left):
        return left, right
    size = left.square().mean(0).sqrt()
    # A column of zeros says nothing: a row of zeros in `right` keeps its rounding out of the rows.
    return left / torch.where(size > 0, size, 1.0), right * size.unsqueeze(1)


def _numbers(factors: Approximation, precision: Precision) -> dict[str, Tensor]:
    """Return the real numbers of an approximation as they are stored."""
    if isinstance(factors, SparseFactors):
        rows = precision.store(factors.rows)
        near = whole(rows).to(factors.rows)
        size = near.norm(dim=1)
        lengths = (factors.rows * near).sum(1) / torch.where(size > 0, size, 1.0)
        atoms = factors.indices.long() + OFFSET
        # What a term adds along its row as it is stored, whatever the length of that row is.
        shares = factors.values * lengths[atoms]
        return named("rows", rows) | named("values", precision.store_vector(shares))
    if isinstance(factors, BlockFactors):
        stored: dict[str, Tensor] = {}
        for block, part in enumerate(factors.parts):
            pieces = (
                _numbers(part, precision)
                if isinstance(part, Factors)
                else named("rows", precision.store(part.rows))
            )
            stored |= {f"{block}.{name}": value for name, value in pieces.items()}
        return stored
    assert isinstance(factors, Factors | ClusteredFactors)
    metric = factors.right.square().sum(-1)
    if isinstance(factors, ClusteredFactors):
        metric = metric[factors.labels]
    stored = named("left", precision.store_coordinates(factors.left, metric))
    stored |= named("right", precision.shared.store(factors.right.flatten(0, -2)))
    if isinstance(factors, Factors) and factors.bias is not None:
        stored |= named("bias", BIAS.store(factors.bias.unsqueeze(0)))
    return stored
