"""How rows of stored factors are computed: only what the rows need is decoded.

What all rows share (bases, labels) is decoded once, when a reader is made; rows of left factors,
kept rows and coefficients are decoded when they are asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from lowrank_bench.linalg.coding.coded import Coded
from lowrank_bench.linalg.coding.integers import all_integers, bits_of, take_integers
from lowrank_bench.linalg.coding.precision import entries, stored_matrix, whole
from lowrank_bench.linalg.factors import KEPT, LABELS, term_starts

Tensors = Mapping[str, Tensor]


class Reader(Protocol):
    """Computes rows of a stored approximation."""

    def rows(self, ids: Tensor) -> Tensor:
        """Return the rows `ids` (m int64, in range), m×d float32."""


@dataclass(frozen=True)
class FactorReader:
    """Rows of `left` @ `right`, plus `bias`; `left` alone where the rows are stored as they are."""

    left: Coded
    right: Tensor | None
    bias: Tensor | None

    @classmethod
    def of(cls, tensors: Tensors, prefix: str = "") -> "FactorReader":
        """Return the reader of the factors, or of the rows, whose names begin with `prefix`."""
        left = stored_matrix(tensors, f"{prefix}left") or stored_matrix(tensors, f"{prefix}rows")
        right, bias = (stored_matrix(tensors, f"{prefix}{name}") for name in ("right", "bias"))
        assert left is not None
        basis = None if right is None else whole(right)
        return cls(left, basis, None if bias is None else whole(bias)[0])

    def rows(self, ids: Tensor) -> Tensor:
        """Return the rows `ids`, m×d float32."""
        rows = self.left.decode(ids)
        if self.right is not None:
            rows = rows @ self.right
        return rows if self.bias is None else rows + self.bias


@dataclass(frozen=True)
class ClusterReader:
    """Rows of `left`, each times the basis of its cluster."""

    left: Coded
    right: Tensor
    labels: Tensor

    @classmethod
    def of(cls, tensors: Tensors, rows: int, parts: int) -> "ClusterReader":
        """Return the reader of n rows in `parts` clusters."""
        left, right = stored_matrix(tensors, "left"), stored_matrix(tensors, "right")
        assert left is not None
        assert right is not None
        bases = whole(right).view(parts, -1, right.shape[1])
        return cls(left, bases, all_integers(tensors[LABELS], rows, bits_of(parts - 1)))

    def rows(self, ids: Tensor) -> Tensor:
        """Return the rows `ids`, m×d float32."""
        left, labels = self.left.decode(ids), self.labels[ids]
        rows = left.new_empty(len(ids), self.right.shape[2])
        for cluster in labels.unique().tolist():
            members = labels == cluster
            rows[members] = left[members] @ self.right[cluster]
        return rows


@dataclass(frozen=True)
class BlockReader:
    """Rows of blocks; `inside` is the place of each row in its block."""

    parts: tuple[FactorReader, ...]
    labels: Tensor
    inside: Tensor
    width: int

    @classmethod
    def of(cls, tensors: Tensors, rows: int, width: int, parts: int) -> "BlockReader":
        """Return the reader of n rows of d columns in `parts` blocks."""
        labels = all_integers(tensors[LABELS], rows, bits_of(parts - 1))
        inside = torch.empty_like(labels)
        for block in range(parts):
            members = labels == block
            inside[members] = torch.arange(int(members.sum()), device=labels.device)
        readers = tuple(FactorReader.of(tensors, f"{block}.") for block in range(parts))
        return cls(readers, labels, inside, width)

    def rows(self, ids: Tensor) -> Tensor:
        """Return the rows `ids`, m×d float32."""
        labels = self.labels[ids]
        rows = torch.empty(len(ids), self.width, device=ids.device)
        for block in labels.unique().tolist():
            members = labels == block
            rows[members] = self.parts[block].rows(self.inside[ids[members]])
        return rows


@dataclass(frozen=True)
class SparseReader:
    """Kept rows, and combinations of a few of them: `factors.SparseFactors`.

    `terms` and `starts` have one number for each row; the index of each term stays packed.
    """

    kept: Coded
    values: Coded
    indices: Tensor
    terms: Tensor
    starts: Tensor

    @classmethod
    def of(cls, tensors: Tensors, rows: int, most: int) -> "SparseReader":
        """Return the reader of n rows with at most `most` terms."""
        kept, values = stored_matrix(tensors, "rows"), stored_matrix(tensors, "values")
        assert kept is not None
        assert values is not None
        counts = all_integers(tensors["counts"], rows, bits_of(most + 1))
        terms = torch.where(counts > most, KEPT, counts)
        return cls(kept, values, tensors["atoms"], terms, term_starts(terms))

    def rows(self, ids: Tensor) -> Tensor:
        """Return the rows `ids`, m×d float32."""
        terms = self.terms[ids]
        kept = terms == KEPT
        counts = torch.where(kept, 1, terms)
        offsets = counts.cumsum(0) - counts
        # One bag a row, with one entry a term; a kept row is a bag of itself with weight 1.
        bag = torch.repeat_interleave(counts)
        places = self.starts[ids][bag] + torch.arange(len(bag), device=bag.device) - offsets[bag]
        combined = ~kept[bag]
        atoms, weights = places.clone(), torch.ones(len(bag), device=bag.device)
        used = places[combined]
        total = int(torch.where(self.terms == KEPT, 0, self.terms).sum())
        atoms[combined] = take_integers(self.indices, total, bits_of(self.kept.shape[0] - 1), used)
        distinct, inverse = torch.unique(atoms, return_inverse=True)
        table = self.kept.decode(distinct)
        # Stored is what a term adds along its row, not a multiple of the row.
        lengths = table.detach().norm(dim=1)
        lengths = torch.where(lengths > 0, lengths, 1.0)[inverse[combined]]
        weights = weights.index_put((combined,), entries(self.values, used) / lengths)
        return functional.embedding_bag(
            inverse, table, offsets, mode="sum", per_sample_weights=weights
        )
