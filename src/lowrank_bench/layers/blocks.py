"""An embedding cut into blocks of rows, each with factors of its own rank."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from lowrank_bench.layers.base import CompressedEmbedding, by_label, gather_parts
from lowrank_bench.linalg.factors import BlockFactors, DenseRows, Factors


class BlockEmbedding(CompressedEmbedding[BlockFactors]):
    """An embedding whose rows belong to blocks: factors of any rank, or dense rows.

    The labels alone say where a row is stored: it is row m of its block when m rows with the same
    label precede it.

    Parameters
    ----------
    num_embeddings, embedding_dim
        n and d.
    parts
        For each block, at most 256, its number of rows and its rank; rank None for dense rows.
    padding_idx
        Index that contributes no gradient; a negative one counts from the end.
    sparse
        Whether the gradients of looked-up tables are sparse tensors.
    device, dtype
        Of all parameters, whose values are undefined until they are set or loaded.
    """

    labels: Tensor

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        parts: Sequence[tuple[int, int | None]],
        padding_idx: int | None = None,
        sparse: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx, sparse)
        kind: dict[str, Any] = {"device": device, "dtype": dtype}
        self.parts = nn.ModuleList(_part(n, rank, embedding_dim, kind) for n, rank in parts)
        labels = torch.empty(num_embeddings, dtype=torch.uint8, device=device)
        self.register_buffer("labels", labels)
        self._places: Tensor | None = None

    @classmethod
    def empty(cls, factors: BlockFactors, **options: Any) -> Self:
        """Return a layer that fits `factors`, on the meta device, with `options` of `__init__`."""
        parts = [_rows_and_rank(part) for part in factors.parts]
        return cls(*factors.shape, parts, device="meta", **options)

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        super()._load_from_state_dict(*args, **options)
        self._places = None  # computed from the labels that have just been replaced

    def set_value(self, name: str, value: Tensor) -> None:
        """Store one tensor of the factors under the name that it has there."""
        block, _, part = name.partition(".")
        if part:
            self._blocks[int(block)][part] = value
        else:
            super().set_value(name, value)

    @property
    def _blocks(self) -> list[nn.ParameterDict]:
        return [part for part in self.parts if isinstance(part, nn.ParameterDict)]

    def look_up(self, indices: Tensor) -> Tensor:
        """Return the rows of the table at `indices`, shape of `indices` × d."""
        flat = indices.reshape(-1)
        # index_select, as nn.Embedding, refuses negative indices.
        places = by_label(self.labels.index_select(0, flat).long(), len(self.parts))
        inside = self._inside()[flat]
        pieces = [
            self._rows(part, inside[part_places])
            for part, part_places in zip(self._blocks, places, strict=True)
        ]
        return gather_parts(pieces, places).reshape(*indices.shape, self.embedding_dim)

    def _rows(self, part: nn.ParameterDict, places: Tensor) -> Tensor:
        table = part["rows"] if "rows" in part else part["left"]
        rows = functional.embedding(places, table, sparse=self.sparse)
        return rows if "rows" in part else rows @ part["right"]

    def _inside(self) -> Tensor:
        """Return each row's place in its block, n; computed from the labels and kept."""
        if self._places is None or self._places.device != self.labels.device:
            self._places = places_in_blocks(self.labels, len(self.parts))
        return self._places

    def approximation(self) -> BlockFactors:
        """Return the current factors."""
        parts = (
            DenseRows(part["rows"]) if "rows" in part else Factors(part["left"], part["right"])
            for part in self._blocks
        )
        return BlockFactors(self.labels, tuple(parts))

    def spec(self) -> dict[str, Any]:
        """Return the arguments of `__init__` that build this layer empty, as JSON values."""
        parts = [list(_rows_and_rank(part)) for part in self.approximation().parts]
        return {**self.common_spec(), "parts": parts}


def places_in_blocks(labels: Tensor, parts: int) -> Tensor:
    """Return for each row how many rows before it have its label, n int64."""
    places = torch.empty(len(labels), dtype=torch.int64, device=labels.device)
    for rows in by_label(labels.long(), parts):
        places[rows] = torch.arange(len(rows), device=labels.device)
    return places


def _rows_and_rank(part: Factors | DenseRows) -> tuple[int, int | None]:
    """Return the size of a block as `BlockEmbedding` is told it."""
    return (len(part.rows), None) if isinstance(part, DenseRows) else (len(part.left), part.rank)


def _part(rows: int, rank: int | None, width: int, kind: dict[str, Any]) -> nn.ParameterDict:
    shapes = (
        {"rows": (rows, width)} if rank is None else {"left": (rows, rank), "right": (rank, width)}
    )
    return nn.ParameterDict({name: torch.empty(*size, **kind) for name, size in shapes.items()})
