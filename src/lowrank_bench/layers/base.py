"""What all embeddings with less in them than a table share."""

from abc import abstractmethod
from typing import Any, Self

import torch
from torch import Tensor, nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.factors import Approximation


class CompressedEmbedding(nn.Module):
    """An embedding whose table n×d is never formed.

    As in `nn.Embedding`, positions that hold `padding_idx` contribute no gradient; with `sparse`
    the gradients of looked-up tables are sparse.

    Parameters
    ----------
    num_embeddings, embedding_dim
        n and d.
    padding_idx
        Index that contributes no gradient; a negative one counts from the end.
    sparse
        Whether gradients of looked-up tables are sparse tensors.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = padding_idx if padding_idx is None else padding_idx % num_embeddings
        self.sparse = sparse

    @classmethod
    @abstractmethod
    def empty(cls, factors: Approximation, **options: Any) -> Self:
        """Return the layer for `factors`, on the meta device, with `options` of `__init__`."""

    @abstractmethod
    def look_up(self, indices: Tensor) -> Tensor:
        """Return the rows of the table at `indices`, shape of `indices` × d."""

    @abstractmethod
    def approximation(self) -> Approximation:
        """Return the factors as they are now."""

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """Return what `__init__` needs to build this layer empty, as JSON can hold it."""

    @classmethod
    def from_dense(cls, embedding: nn.Module, factors: Approximation) -> Self:
        """Return the layer that replaces `embedding`, on its device and in its precision.

        Parameters
        ----------
        embedding
            An `nn.Embedding`, or a compressed one whose factors are to be replaced.

        Raises
        ------
        LowRankError
            When the shapes differ, or the embedding has an option that factors cannot honour.
        """
        n, d = embedding.num_embeddings, embedding.embedding_dim
        if factors.shape != (n, d):
            raise LowRankError(
                f"factors of a {factors.shape[0]}x{factors.shape[1]} matrix cannot replace an "
                f"embedding of {n}x{d}"
            )
        for option in ("max_norm", "scale_grad_by_freq"):
            if getattr(embedding, option, None):
                raise LowRankError(
                    f"a compressed embedding cannot honour {option}, which needs whole rows of the "
                    f"table; set {option} to {'None' if option == 'max_norm' else 'False'} first"
                )
        old = next(embedding.parameters())
        layer = cls.empty(factors, padding_idx=embedding.padding_idx, sparse=embedding.sparse)
        layer.take(factors, old)
        return layer.train(embedding.training)

    def take(self, factors: Approximation, like: nn.Parameter) -> None:
        """Take over the values of `factors`, on the device and in the precision of `like`."""
        for name, value in factors.tensors().items():
            real = value.is_floating_point()
            dtype = like.dtype if real else value.dtype
            value = plain_copy(value, like.device, dtype)
            if real:
                value = nn.Parameter(value, requires_grad=like.requires_grad)
            self.set_value(name, value)

    def set_value(self, name: str, value: Tensor) -> None:
        """Put one tensor of the factors, by its name there, in its place in the layer."""
        if isinstance(value, nn.Parameter):
            setattr(self, name, value)
        else:
            self.register_buffer(name, value.to(self.get_buffer(name).dtype))

    @property
    def weight(self) -> Tensor:
        """Return the dense table n×d, computed at each call."""
        return self.approximation().dense()

    def forward(self, indices: Tensor) -> Tensor:
        """Return the rows of the table at `indices`, shape of `indices` × d."""
        rows = self.look_up(indices)
        if self.padding_idx is not None and torch.is_grad_enabled() and rows.requires_grad:
            padding = (indices == self.padding_idx).unsqueeze(-1)
            rows = torch.where(padding, rows.detach(), rows)
        return rows

    def common_spec(self) -> dict[str, Any]:
        """Return the part of `spec` that all such layers share."""
        return {
            "num_embeddings": self.num_embeddings,
            "embedding_dim": self.embedding_dim,
            "padding_idx": self.padding_idx,
            "sparse": self.sparse,
        }

    def extra_repr(self) -> str:
        """Return the shapes shown by `print`."""
        common = self.common_spec()
        own = {key: value for key, value in self.spec().items() if key not in common}
        shown = own | {"padding_idx": self.padding_idx, "sparse": self.sparse or None}
        words = [f"{key}={value}" for key, value in shown.items() if value not in (None, False)]
        return ", ".join([f"{self.num_embeddings}, {self.embedding_dim}", *words])


def plain_copy(value: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return a copy of a tensor whose strides are those of a new one, as it is after loading.

    Along axes of length 1 `contiguous` leaves strides as they are; products then take another path
    and round otherwise.
    """
    layout = torch.contiguous_format
    return value.detach().to(device, dtype, copy=True, memory_format=layout)


def by_label(labels: Tensor, parts: int) -> list[Tensor]:
    """Return for each of `parts` labels the places, in order, of a flat tensor that hold it."""
    order = labels.argsort(stable=True)
    return list(order.split(torch.bincount(labels, minlength=parts).tolist()))


def gather_parts(pieces: list[Tensor], places: list[Tensor]) -> Tensor:
    """Return the rows of `pieces` at their `places`: a differentiable, out-of-place scatter."""
    order = torch.cat(places)
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=order.device)
    return torch.cat(pieces)[back]
