"""An embedding stored as two factors."""

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from lowrank_bench.layers.base import CompressedEmbedding
from lowrank_bench.linalg.factors import Factors


class FactorizedEmbedding(CompressedEmbedding[Factors]):
    """An embedding whose table n×d is `left` (n×k) @ `right` (k×d), plus `bias` in every row.

    Rows of `left` are looked up and multiplied by `right`.

    Parameters
    ----------
    num_embeddings, embedding_dim
        n and d.
    rank
        k.
    padding_idx
        Index that contributes no gradient; a negative one counts from the end.
    sparse
        Whether the gradient of `left` is a sparse tensor.
    bias
        Whether a vector of d is added to every row.
    device, dtype
        Of all parameters, whose values are undefined until they are set or loaded.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        rank: int,
        padding_idx: int | None = None,
        sparse: bool = False,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx, sparse)
        self.rank = rank
        kind: dict[str, Any] = {"device": device, "dtype": dtype}
        self.left = nn.Parameter(torch.empty(num_embeddings, rank, **kind))
        self.right = nn.Parameter(torch.empty(rank, embedding_dim, **kind))
        self.bias = nn.Parameter(torch.empty(embedding_dim, **kind)) if bias else None

    @classmethod
    def empty(cls, factors: Factors, **options: Any) -> Self:
        """Return a layer that fits `factors`, on the meta device, with `options` of `__init__`."""
        has_bias = factors.bias is not None
        return cls(*factors.shape, factors.rank, bias=has_bias, device="meta", **options)

    def look_up(self, indices: Tensor) -> Tensor:
        """Return the rows of the table at `indices`, shape of `indices` × d."""
        rows = functional.embedding(indices, self.left, self.padding_idx, sparse=self.sparse)
        rows = rows @ self.right
        return rows if self.bias is None else rows + self.bias

    def approximation(self) -> Factors:
        """Return the current factors."""
        return Factors(self.left, self.right, self.bias)

    def spec(self) -> dict[str, Any]:
        """Return the arguments of `__init__` that build this layer empty, as JSON values."""
        return {**self.common_spec(), "rank": self.rank, "bias": self.bias is not None}
