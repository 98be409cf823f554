"""An embedding that keeps some rows and writes the others as sparse combinations of them."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from lowrank_bench.layers.base import CompressedEmbedding
from lowrank_bench.linalg.factors import SparseFactors, combine, term_starts


class SparseEmbedding(CompressedEmbedding[SparseFactors]):
    """An embedding with m whole rows; every other row is a combination of a few of them.

    Parameters
    ----------
    num_embeddings, embedding_dim
        n and d.
    kept, coefficients
        m, and the total number of coefficients.
    padding_idx
        Index that contributes no gradient; a negative one counts from the end.
    sparse
        Not honoured: gradients are dense, since a row is combined from several others.
    device, dtype
        Of all parameters, whose values are undefined until they are set or loaded.

    References
    ----------
    Chen, Mou, Xu, Li, Jin, "Compressing neural language models by sparse word representations", ACL
    2016: rare words as sparse combinations of common ones.
    """

    terms: Tensor
    indices: Tensor

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        kept: int,
        coefficients: int,
        padding_idx: int | None = None,
        sparse: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx)
        kind: dict[str, Any] = {"device": device, "dtype": dtype}
        self.rows = nn.Parameter(torch.empty(kept, embedding_dim, **kind))
        self.values = nn.Parameter(torch.empty(coefficients, **kind))
        terms = torch.empty(num_embeddings, dtype=torch.uint8, device=device)
        self.register_buffer("terms", terms)
        self.register_buffer("indices", torch.empty(coefficients, dtype=torch.int16, device=device))
        self._starts: Tensor | None = None

    @classmethod
    def empty(cls, factors: SparseFactors, **options: Any) -> Self:
        """Return a layer that fits `factors`, on the meta device, with `options` of `__init__`."""
        sizes = (*factors.shape, len(factors.rows), len(factors.values))
        return cls(*sizes, device="meta", **options)

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        super()._load_from_state_dict(*args, **options)
        self._starts = None  # computed from the terms that have just been replaced

    def look_up(self, indices: Tensor) -> Tensor:
        """Return the rows of the table at `indices`, shape of `indices` × d."""
        if self._starts is None or self._starts.device != self.terms.device:
            self._starts = term_starts(self.terms)  # follows from the terms, so it is not saved
        rows = combine(self.approximation(), self._starts, indices.reshape(-1))
        return rows.reshape(*indices.shape, self.embedding_dim)

    def approximation(self) -> SparseFactors:
        """Return the current factors."""
        return SparseFactors(self.rows, self.terms, self.indices, self.values)

    def spec(self) -> dict[str, Any]:
        """Return the arguments of `__init__` that build this layer empty, as JSON values."""
        return {**self.common_spec(), "kept": len(self.rows), "coefficients": len(self.values)}
