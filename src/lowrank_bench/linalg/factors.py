"""What replaces a weight: small matrices, and integers that say how they fit together."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

LABELS = "labels"
KEPT = 255
OFFSET = 1 << 15


class Approximation(ABC):
    """What replaces an n×d matrix: its rows can be computed a block at a time."""

    shape: tuple[int, int]
    rank: int
    index_bits: int = 0

    @property
    def n_parameters(self) -> int:
        """Return the numbers kept; the integers beside them are counted in `index_bits`."""
        return sum(value.numel() for value in self.tensors().values() if value.is_floating_point())

    @abstractmethod
    def dense(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Return rows `start` to `stop` of the matrix, all of them by default."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return all that is kept, by name; `restore` reads it back."""

    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Self:
        """Return the same in another precision or on another device."""
        moved = {
            name: value.to(device=device, dtype=dtype if value.is_floating_point() else None)
            for name, value in self.tensors().items()
        }
        return restore(moved)


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
        """Return `left`, `right` and, if there is one, `bias`."""
        found = {"left": self.left, "right": self.right}
        return found if self.bias is None else {**found, "bias": self.bias}


@dataclass(frozen=True)
class ClusteredFactors(Approximation):
    """A matrix whose rows lie on k subspaces: row i is `left[i] @ right[labels[i]]`.

    Attributes
    ----------
    left
        Tensor n×j, in the order of the rows.
    right
        Tensor k×j×d, a basis for each cluster.
    labels
        Tensor n of whole numbers in 0..k−1.
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
        """Return the bits that the labels need, n·⌈log₂ k⌉."""
        return label_bits(len(self.labels), len(self.right))

    def dense(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Return rows of the matrix, all n×d by default."""
        left, labels = self.left[start:stop], self.labels[start:stop]
        rows = left.new_empty(len(left), self.shape[1])
        for cluster, basis in enumerate(self.right):
            own = labels == cluster
            rows[own] = left[own] @ basis
        return rows

    def tensors(self) -> dict[str, Tensor]:
        """Return `left`, `right` and `labels`."""
        return {"left": self.left, "right": self.right, LABELS: self.labels}


@dataclass(frozen=True)
class DenseRows:
    """Rows kept as they are, n×d: what a block is where factors would be larger."""

    rows: Tensor

    @property
    def rank(self) -> int:
        """Return the most that the rank can be."""
        return min(self.rows.shape)

    def dense(self) -> Tensor:
        """Return the rows."""
        return self.rows

    def tensors(self) -> dict[str, Tensor]:
        """Return `rows`."""
        return {"rows": self.rows}


@dataclass(frozen=True)
class BlockFactors(Approximation):
    """A matrix cut into blocks of rows, each with factors of its own rank, or kept dense.

    Attributes
    ----------
    labels
        Tensor n of whole numbers: the block of each row. The rows of a block keep their order.
    parts
        What replaces each block.
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
        """Return the bits that the labels need; a row's place in its block follows from them."""
        return label_bits(len(self.labels), len(self.parts))

    def dense(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Return rows of the matrix, all n×d by default."""
        labels = self.labels[start:stop]
        sample = next(iter(self.parts[0].tensors().values()))
        rows = sample.new_empty(len(labels), self.shape[1])
        for block, part in enumerate(self.parts):
            first = int((self.labels[:start] == block).sum())
            own = labels == block
            last = first + int(own.sum())
            rows[own] = (
                part.rows[first:last] if isinstance(part, DenseRows) else part.dense(first, last)
            )
        return rows

    def tensors(self) -> dict[str, Tensor]:
        """Return `labels`, and the tensors of block b under `b.left`, `b.right` or `b.rows`."""
        found = {LABELS: self.labels}
        for block, part in enumerate(self.parts):
            found |= {f"{block}.{name}": value for name, value in part.tensors().items()}
        return found


@dataclass(frozen=True)
class SparseFactors(Approximation):
    """A matrix of which some rows are kept and the others are sparse combinations of these.

    Attributes
    ----------
    rows
        Tensor m×d: the rows that are kept, in their order, m ≤ 65,536.
    terms
        Tensor n uint8: how many rows each row combines, 0 to 254; `KEPT` for those that are kept.
    indices
        Tensor z int16: which of the kept rows, one combination after the other; kept row 0 is
        −32,768, so that 16 bits reach them all.
    values
        Tensor z: the coefficients.
    """

    rows: Tensor
    terms: Tensor
    indices: Tensor
    values: Tensor

    @property
    def rank(self) -> int:
        """Return the largest rank that the matrix can have."""
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
    """Return where each row of `SparseFactors` starts, n int64: in `indices`, or in `rows`."""
    kept = terms == KEPT
    counts = torch.where(kept, 0, terms.long())
    return torch.where(kept, kept.cumsum(0) - 1, counts.cumsum(0) - counts)


def combine(factors: SparseFactors, starts: Tensor, wanted: Tensor) -> Tensor:
    """Return the rows `wanted`, len(wanted)×d, of sparse factors; `starts` are their starts."""
    terms = factors.terms.index_select(0, wanted)  # which refuses negative indices
    kept = terms == KEPT
    counts = torch.where(kept, 1, terms.long())
    offsets = counts.cumsum(0) - counts
    bag = torch.repeat_interleave(counts)
    places = starts[wanted][bag] + torch.arange(len(bag), device=bag.device) - offsets[bag]
    whole = kept[bag]
    indices, weights = places.clone(), factors.values.new_ones(len(bag))
    indices[~whole] = factors.indices[places[~whole]].long() + OFFSET
    weights = weights.index_put((~whole,), factors.values[places[~whole]])
    return functional.embedding_bag(
        indices, factors.rows, offsets, mode="sum", per_sample_weights=weights
    )


def label_bits(rows: int, parts: int) -> int:
    """Return the bits that say for each row which of `parts` it belongs to, n·⌈log₂ parts⌉."""
    return rows * (parts - 1).bit_length()


def restore(tensors: Mapping[str, Tensor]) -> Any:
    """Return the approximation whose `tensors()` these are."""
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
    made = (DenseRows(**part) if "rows" in part else Factors(**part) for part in parts)
    return BlockFactors(tensors[LABELS], tuple(made))
