"""What the layers that replace dense ones share, and what compressed embeddings share."""

from abc import abstractmethod
from typing import Any, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.factors import Approximation

AnyFactors = TypeVar("AnyFactors", bound=Approximation)


class ReplacementLayer(nn.Module):
    """A layer that replaces a dense one; saved networks rebuild it from its `spec`."""

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """Return the arguments of `__init__` that build this layer empty, as JSON values."""


class CompressedEmbedding(ReplacementLayer, Generic[AnyFactors]):
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
    def empty(cls, factors: AnyFactors, **options: Any) -> Self:
        """Return a layer that fits `factors`, on the meta device, with `options` of `__init__`."""

    @abstractmethod
    def look_up(self, indices: Tensor) -> Tensor:
        """Return the rows of the table at `indices`, shape of `indices` × d."""

    @abstractmethod
    def approximation(self) -> AnyFactors:
        """Return the current factors."""

    @classmethod
    def from_dense(
        cls, embedding: "nn.Embedding | CompressedEmbedding[Any]", factors: AnyFactors
    ) -> Self:
        """Return the layer that replaces `embedding`, on its device and in its precision.

        Parameters
        ----------
        embedding
            An `nn.Embedding`, or a compressed embedding that is to get other factors.

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
        like = next(embedding.parameters())
        layer = cls.empty(factors, padding_idx=embedding.padding_idx, sparse=embedding.sparse)
        layer.copy_values(factors, like)
        return layer.train(embedding.training)

    def copy_values(self, factors: Approximation, like: nn.Parameter) -> None:
        """Copy the values of `factors` to the device of `like`, real numbers in its precision."""
        for name, value in factors.tensors().items():
            real = value.is_floating_point()
            dtype = like.dtype if real else value.dtype
            value = plain_copy(value, like.device, dtype)
            if real:
                value = nn.Parameter(value, requires_grad=like.requires_grad)
            self.set_value(name, value)

    def set_value(self, name: str, value: Tensor) -> None:
        """Store one tensor of the factors under the name that it has there."""
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
        """Return the part of `spec` that all compressed embeddings share."""
        return {
            "num_embeddings": self.num_embeddings,
            "embedding_dim": self.embedding_dim,
            "padding_idx": self.padding_idx,
            "sparse": self.sparse,
        }

    def extra_repr(self) -> str:
        """Return the shapes shown by `print`."""
        common = self.common_spec()
        options = {key: value for key, value in self.spec().items() if key not in common}
        options |= {"padding_idx": self.padding_idx, "sparse": self.sparse or None}
        words = [f"{key}={value}" for key, value in options.items() if value not in (None, False)]
        return ", ".join([f"{self.num_embeddings}, {self.embedding_dim}", *words])


def plain_copy(value: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return a copy of a tensor with default strides, which it has after loading as well.

    `contiguous` does not change the strides of axes of length 1, and with other strides matrix
    products may take another path and round differently.
    """
    layout = torch.contiguous_format
    return value.detach().to(device, dtype, copy=True, memory_format=layout)


def as_parameter(value: Tensor, like: Tensor) -> nn.Parameter:
    """Return a copy of `value` as a parameter on the device and in the precision of `like`."""
    value = plain_copy(value, like.device, like.dtype)
    return nn.Parameter(value, requires_grad=like.requires_grad)


def by_label(labels: Tensor, parts: int) -> list[Tensor]:
    """Return for each label in 0..`parts`−1 the indices of its entries, in ascending order."""
    order = labels.argsort(stable=True)
    return list(torch.split(order, torch.bincount(labels, minlength=parts).tolist()))


def gather_parts(pieces: list[Tensor], places: list[Tensor]) -> Tensor:
    """Return the tensor whose rows at `places` are `pieces`: a differentiable scatter."""
    order = torch.cat(places)
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order), device=order.device)
    return torch.cat(pieces)[inverse]
