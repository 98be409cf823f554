"""An embedding whose rows lie on k subspaces (MESSI)."""

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from lowrank_bench.layers.base import CompressedEmbedding, by_label, gather_parts
from lowrank_bench.linalg.factors import ClusteredFactors


class ClusteredEmbedding(CompressedEmbedding[ClusteredFactors]):
    """An embedding with one table n×j in vocabulary order, a cluster for each row, and k bases.

    Row i of the table is `left[i]` @ `right[labels[i]]`.

    Parameters
    ----------
    num_embeddings, embedding_dim
        n and d.
    rank, clusters
        j, the dimension of each subspace, and k, at most 256.
    padding_idx
        Index that contributes no gradient; a negative one counts from the end.
    sparse
        Whether the gradient of `left` is a sparse tensor.
    device, dtype
        Of both parameters, whose values are undefined until they are set or loaded.

    References
    ----------
    Maalouf, Lang, Rus, Feldman, "Deep Learning Meets Projective Clustering", ICLR 2021, section 2.
    """

    labels: Tensor

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        rank: int,
        clusters: int,
        padding_idx: int | None = None,
        sparse: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx, sparse)
        self.rank, self.clusters = rank, clusters
        kind: dict[str, Any] = {"device": device, "dtype": dtype}
        self.left = nn.Parameter(torch.empty(num_embeddings, rank, **kind))
        self.right = nn.Parameter(torch.empty(clusters, rank, embedding_dim, **kind))
        labels = torch.empty(num_embeddings, dtype=torch.uint8, device=device)
        self.register_buffer("labels", labels)

    @classmethod
    def empty(cls, factors: ClusteredFactors, **options: Any) -> Self:
        """Return a layer that fits `factors`, on the meta device, with `options` of `__init__`."""
        return cls(*factors.shape, factors.rank, len(factors.right), device="meta", **options)

    def look_up(self, indices: Tensor) -> Tensor:
        """Return the rows of the table at `indices`, shape of `indices` × d."""
        flat = indices.reshape(-1)
        left = functional.embedding(flat, self.left, self.padding_idx, sparse=self.sparse)
        places = by_label(self.labels.index_select(0, flat).long(), self.clusters)
        pieces = [left[rows] @ basis for rows, basis in zip(places, self.right, strict=True)]
        return gather_parts(pieces, places).reshape(*indices.shape, self.embedding_dim)

    def approximation(self) -> ClusteredFactors:
        """Return the current factors."""
        return ClusteredFactors(self.left, self.right, self.labels)

    def spec(self) -> dict[str, Any]:
        """Return the arguments of `__init__` that build this layer empty, as JSON values."""
        return {**self.common_spec(), "rank": self.rank, "clusters": self.clusters}
