"""An embedding cut into blocks of rows, each with factors of its own rank."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from lowrank_bench.layers.base import CompressedEmbedding, by_label, gather_parts
from lowrank_bench.linalg.factors import BlockFactors, DenseRows, Factors, restore


class BlockEmbedding(CompressedEmbedding):
    """An embedding whose rows belong to blocks: factors of any rank, or dense rows.

    The labels are all that says where a row lies: it is the m-th row of its block when m rows with
    its label stand before it.

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
        """Return the layer for `factors`, on the meta device, with `options` of `__init__`."""
        parts = [
            (len(part.rows), None) if isinstance(part, DenseRows) else (len(part.left), part.rank)
            for part in factors.parts
        ]
        return cls(*factors.shape, parts, device="meta", **options)

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        super()._load_from_state_dict(*args, **options)
        self._places = None  # it followed from the labels before

    def set_value(self, name: str, value: Tensor) -> None:
        """Put one tensor of the factors, by its name there, in its place in the layer."""
        block, _, part = name.partition(".")
        if part:
            self.parts[int(block)][part] = value
        else:
            super().set_value(name, value)

    def look_up(self, indices: Tensor) -> Tensor:
        """Return the rows of the table at `indices`, shape of `indices` × d."""
        flat = indices.reshape(-1)
        # index_select, as nn.Embedding, refuses negative indices.
        places = by_label(self.labels.index_select(0, flat).long(), len(self.parts))
        inside = self._inside()[flat]
        pieces = [
            self._rows(part, inside[own]) for part, own in zip(self.parts, places, strict=True)
        ]
        return gather_parts(pieces, places).reshape(*indices.shape, self.embedding_dim)

    def _rows(self, part: nn.ParameterDict, places: Tensor) -> Tensor:
        table = part["rows"] if "rows" in part else part["left"]
        found = functional.embedding(places, table, sparse=self.sparse)
        return found if "rows" in part else found @ part["right"]

    def _inside(self) -> Tensor:
        """Return each row's place in its block, n; found once, since it follows from the labels."""
        if self._places is None or self._places.device != self.labels.device:
            self._places = places_in_blocks(self.labels, len(self.parts))
        return self._places

    def approximation(self) -> BlockFactors:
        """Return the factors as they are now."""
        found = {"labels": self.labels}
        for block, part in enumerate(self.parts):
            found |= {f"{block}.{name}": value for name, value in part.items()}
        return restore(found)

    def spec(self) -> dict[str, Any]:
        """Return what `__init__` needs to build this layer empty, as JSON can hold it."""
        kept = self.approximation().parts
        parts = [
            [len(part.left), part.rank] if isinstance(part, Factors) else [len(part.rows), None]
            for part in kept
        ]
        return {**self.common_spec(), "parts": parts}


def places_in_blocks(labels: Tensor, parts: int) -> Tensor:
    """Return for each row how many rows before it have its label, n int64."""
    places = torch.empty(len(labels), dtype=torch.int64, device=labels.device)
    for own in by_label(labels.long(), parts):
        places[own] = torch.arange(len(own), device=labels.device)
    return places


def _part(rows: int, rank: int | None, width: int, kind: dict[str, Any]) -> nn.ParameterDict:
    shapes = (
        {"rows": (rows, width)} if rank is None else {"left": (rows, rank), "right": (rank, width)}
    )
    return nn.ParameterDict({name: torch.empty(*size, **kind) for name, size in shapes.items()})
