"""Replacements for a weight: small matrices, and integers that say how they combine."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional

from lowrank_bench.problem import FLOAT_BYTES

LABELS = "labels"
KEPT = 255  # in `SparseFactors.terms`: the row is kept whole
# Kinds that only some methods make. Named, not imported, they are no part of what decides the
# results of the others.
LATER = {"quantized": "lowrank_bench.linalg.coding.quantized"}
OFFSET = 1 << 15  # subtracted from indices, so that int16 reaches 65,536 rows


class Approximation(ABC):
    """A replacement for an n×d matrix whose rows can be computed one block at a time.

    A kind that `restore` shall rebuild names a tensor that no other kind has:
    `class Mine(Approximation, mark="mine")`.
    """

    kinds: ClassVar[dict[str, type["Approximation"]]] = {}
    mark: ClassVar[str]

    def __init_subclass__(cls, mark: str | None = None) -> None:
        """Make the class known to `restore` by the name of one of its tensors."""
        super().__init_subclass__()
        if mark is not None:
            Approximation.kinds[mark] = cls
            cls.mark = mark

    @classmethod
    def rebuild(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Return the object with these `tensors()`."""
        return cls(**tensors)

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Return (n, d)."""

    @property
    @abstractmethod
    def rank(self) -> int:
        """Return the rank, or the largest that the parts allow."""

    @property
    def index_bits(self) -> int:
        """Return the bits of all integers stored with the parameters; 0 if there are none."""
        return 0

    @property
    def n_parameters(self) -> int:
        """Return how many numbers are stored; `index_bits` counts the integers."""
        return sum(value.numel() for value in self.tensors().values() if value.is_floating_point())

    @property
    def n_bytes(self) -> int:
        """Return the bytes of all that is stored, with real numbers in float32."""
        integers = {
            name: value for name, value in self.tensors().items() if not value.is_floating_point()
        }
        # Layers keep a label in one byte, whatever its type here.
        sizes = (
            value.numel() * (1 if name == LABELS else value.element_size())
            for name, value in integers.items()
        )
        return FLOAT_BYTES * self.n_parameters + sum(sizes)

    @abstractmethod
    def dense(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Return rows `start` to `stop` of the matrix, by default all of them."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return all stored tensors by name; `restore` rebuilds the object from them."""

    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Self:
        """Return a copy in another precision or on another device."""
        moved = {
            name: value.to(device=device, dtype=dtype if value.is_floating_point() else None)
            for name, value in self.tensors().items()
        }
        copy = restore(moved)
        assert isinstance(copy, type(self))
        return copy

    def scaled(self, unit: float) -> "Approximation":
        """Return the approximation of the matrix times `unit`; labels and combinations stay."""
        sizes = {"left", "rows", "bias"}  # the others have length one, or combine these
        tensors = {
            name: value * unit if name.rpartition(".")[2] in sizes else value
            for name, value in self.tensors().items()
        }
        return restore(tensors)


@dataclass(frozen=True)
class Factors(Approximation):
    """A matrix n×d of rank at most k as the product `left` @ `right`, plus `bias` in every row.

    Attributes
    ----------
    left
        Tensor n×k.
    right
        Tensor k×d.
    bias
        Tensor d, or None.
    """

    left: Tensor
    right: Tensor
    bias: Tensor | None = None

    @property
    def rank(self) -> int:
        """Return k."""
        return self.left.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """Return (n, d)."""
        return self.left.shape[0], self.right.shape[1]

    def dense(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Return rows of the product, all n×d by default."""
        rows = self.left[start:stop] @ self.right
        return rows if self.bias is None else rows + self.bias

    def tensors(self) -> dict[str, Tensor]:
        """Return `left`, `right` and, if present, `bias`."""
        stored = {"left": self.left, "right": self.right}
        return stored if self.bias is None else {**stored, "bias": self.bias}


@dataclass(frozen=True)
class ClusteredFactors(Approximation):
    """A matrix whose rows lie on k subspaces: row i is `left[i] @ right[labels[i]]`.

    Attributes
    ----------
    left
        Tensor n×j, in the order of the rows.
    right
        Tensor k×j×d: the basis of each cluster.
    labels
        Tensor n of integers in 0..k−1.
    """

    left: Tensor
    right: Tensor
    labels: Tensor

    @property
    def rank(self) -> int:
        """Return j, the dimension of each subspace."""
        return self.left.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """Return (n, d)."""
        return self.left.shape[0], self.right.shape[2]

    @property
    def index_bits(self) -> int:
        """Return the bits of the labels, n·⌈log₂ k⌉."""
        return label_bits(len(self.labels), len(self.right))

    def dense(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Return rows of the matrix, all n×d by default."""
        left, labels = self.left[start:stop], self.labels[start:stop]
        rows = left.new_empty(len(left), self.shape[1])
        for cluster, basis in enumerate(self.right):
            members = labels == cluster
            rows[members] = left[members] @ basis
        return rows

    def tensors(self) -> dict[str, Tensor]:
        """Return `left`, `right` and `labels`."""
        return {"left": self.left, "right": self.right, LABELS: self.labels}


@dataclass(frozen=True)
class DenseRows:
    """Rows stored as they are, n×d: used for a block whose factors would be larger."""

    rows: Tensor

    @property
    def rank(self) -> int:
        """Return the largest possible rank."""
        return min(self.rows.shape)

    def dense(self) -> Tensor:
        """Return the rows."""
        return self.rows

    def tensors(self) -> dict[str, Tensor]:
        """Return `rows`."""
        return {"rows": self.rows}


@dataclass(frozen=True)
class BlockFactors(Approximation):
    """A matrix in blocks of rows, each with factors of its own rank or stored as it is.

    Attributes
    ----------
    labels
        Tensor n of integers: the block of each row. The rows of a block keep their order.
    parts
        The replacement for each block.
    """

    labels: Tensor
    parts: tuple[Factors | DenseRows, ...]

    @property
    def rank(self) -> int:
        """Return the largest rank of a block."""
        return max(part.rank for part in self.parts)

    @property
    def shape(self) -> tuple[int, int]:
        """Return (n, d)."""
        part = self.parts[0]
        width = part.rows if isinstance(part, DenseRows) else part.right
        return len(self.labels), width.shape[1]

    @property
    def index_bits(self) -> int:
        """Return the bits of the labels, from which a row's place in its block follows."""
        return label_bits(len(self.labels), len(self.parts))

    def dense(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Return rows of the matrix, all n×d by default."""
        labels = self.labels[start:stop]
        sample = next(iter(self.parts[0].tensors().values()))
        rows = sample.new_empty(len(labels), self.shape[1])
        for block, part in enumerate(self.parts):
            # Rows of the block are stored in order, so earlier members give the first index.
            first = int((self.labels[:start] == block).sum())
            members = labels == block
            last = first + int(members.sum())
            rows[members] = (
                part.rows[first:last] if isinstance(part, DenseRows) else part.dense(first, last)
            )
        return rows

    def tensors(self) -> dict[str, Tensor]:
        """Return `labels`, and the tensors of block b as `b.left`, `b.right` or `b.rows`."""
        stored = {LABELS: self.labels}
        for block, part in enumerate(self.parts):
            stored |= {f"{block}.{name}": value for name, value in part.tensors().items()}
        return stored


@dataclass(frozen=True)
class SparseFactors(Approximation):
    """A matrix with some rows kept whole and the others sparse combinations of them.

    Attributes
    ----------
    rows
        Tensor m×d: the kept rows in order, m ≤ 65,536.
    terms
        Tensor n uint8: number of terms in each row's combination, 0 to 254; `KEPT` for a kept row.
    indices
        Tensor z int16: the kept row of each term, all combinations in sequence. Kept row 0 has
        index −32,768, so that 16 bits reach all of them.
    values
        Tensor z: the coefficients.
    """

    rows: Tensor
    terms: Tensor
    indices: Tensor
    values: Tensor

    @property
    def rank(self) -> int:
        """Return the largest possible rank."""
        return min(self.rows.shape)

    @property
    def shape(self) -> tuple[int, int]:
        """Return (n, d)."""
        return len(self.terms), self.rows.shape[1]

    @property
    def index_bits(self) -> int:
        """Return 8 bits for each row and 16 for each coefficient."""
        return 8 * self.terms.numel() + 16 * self.indices.numel()

    def dense(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Return rows of the matrix, all n×d by default."""
        whole = torch.arange(len(self.terms), device=self.terms.device)
        return combine(self, term_starts(self.terms), whole[start:stop])

    def tensors(self) -> dict[str, Tensor]:
        """Return `rows`, `terms`, `indices` and `values`."""
        return {
            "rows": self.rows,
            "terms": self.terms,
            "indices": self.indices,
            "values": self.values,
        }


def term_starts(terms: Tensor) -> Tensor:
    """Return the first index of each row of `SparseFactors`, n int64: in `indices` or `rows`."""
    kept = terms == KEPT
    counts = torch.where(kept, 0, terms.long())
    return torch.where(kept, kept.cumsum(0) - 1, counts.cumsum(0) - counts)


def combine(factors: SparseFactors, starts: Tensor, wanted: Tensor) -> Tensor:
    """Return the rows `wanted`, len(wanted)×d, of sparse factors; see `term_starts`."""
    terms = factors.terms.index_select(0, wanted)  # unlike indexing, rejects negative indices
    kept = terms == KEPT
    counts = torch.where(kept, 1, terms.long())
    offsets = counts.cumsum(0) - counts
    # One bag per row, with one entry per term; a kept row is a bag of one entry with weight 1.
    bag = torch.repeat_interleave(counts)
    places = starts[wanted][bag] + torch.arange(len(bag), device=bag.device) - offsets[bag]
    whole = kept[bag]
    # A kept row is addressed directly, a term through its stored index and coefficient.
    indices, weights = places.clone(), factors.values.new_ones(len(bag))
    indices[~whole] = factors.indices[places[~whole]].long() + OFFSET
    weights = weights.index_put((~whole,), factors.values[places[~whole]])
    return functional.embedding_bag(
        indices, factors.rows, offsets, mode="sum", per_sample_weights=weights
    )


def scaled(factors: Approximation, unit: float) -> Approximation:
    """Return the approximation of a matrix times `unit`; labels and combinations stay."""
    return factors if unit == 1.0 else factors.scaled(unit)


def label_bits(rows: int, parts: int) -> int:
    """Return the bits that assign each of n rows to one of `parts`, n·⌈log₂ parts⌉."""
    return rows * (parts - 1).bit_length()


def restore(tensors: Mapping[str, Tensor]) -> Approximation:
    """Rebuild an approximation from its `tensors()`; their names tell which kind it is.

    Kinds of other files are known once their file is imported, which is done here for `LATER`.
    """
    for mark, module in LATER.items():
        if mark in tensors:
            import_module(module)
    for mark, kind in Approximation.kinds.items():
        if mark in tensors:
            return kind.rebuild(tensors)
    if "terms" in tensors:
        return SparseFactors(**tensors)
    if LABELS not in tensors:
        return Factors(**tensors)
    if "left" in tensors:
        return ClusteredFactors(**tensors)
    blocks: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        block, _, part = name.partition(".")
        if part:
            blocks.setdefault(int(block), {})[part] = value
    parts = (blocks[number] for number in range(len(blocks)))
    restored = (DenseRows(**part) if "rows" in part else Factors(**part) for part in parts)
    return BlockFactors(tensors[LABELS], tuple(restored))
