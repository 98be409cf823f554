"""An embedding kept as two factors, and how to find and replace one in a network."""

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.factors import Factors


class FactorizedEmbedding(nn.Module):
    """An embedding whose table n×d is `left` (n×k) @ `right` (k×d) and is never formed.

    Rows of `left` are looked up and multiplied by `right`. As in `nn.Embedding`, positions that
    hold `padding_idx` contribute no gradient; with `sparse` the gradient of `left` is sparse.

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
    device, dtype
        Of both factors, whose values are undefined until they are set or loaded.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        rank: int,
        padding_idx: int | None = None,
        sparse: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.rank = num_embeddings, embedding_dim, rank
        self.padding_idx = padding_idx if padding_idx is None else padding_idx % num_embeddings
        self.sparse = sparse
        kind: dict[str, Any] = {"device": device, "dtype": dtype}
        self.left = nn.Parameter(torch.empty(num_embeddings, rank, **kind))
        self.right = nn.Parameter(torch.empty(rank, embedding_dim, **kind))

    @classmethod
    def from_dense(cls, embedding: nn.Module, factors: Factors) -> Self:
        """Return the layer that replaces `embedding`, on its device and in its precision.

        Parameters
        ----------
        embedding
            An `nn.Embedding`, or a `FactorizedEmbedding` whose factors are to be replaced.

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
                    f"a factorized embedding cannot honour {option}, which needs whole rows of the "
                    f"table; set {option} to {'None' if option == 'max_norm' else 'False'} first"
                )
        old = next(embedding.parameters())
        layer = cls(n, d, factors.rank, embedding.padding_idx, embedding.sparse, "meta")
        for name, factor in (("left", factors.left), ("right", factors.right)):
            value = factor.detach().to(device=old.device, dtype=old.dtype, copy=True).contiguous()
            setattr(layer, name, nn.Parameter(value, requires_grad=old.requires_grad))
        return layer.train(embedding.training)

    @property
    def weight(self) -> Tensor:
        """Return the dense table n×d, computed at each call."""
        return self.left @ self.right

    def forward(self, indices: Tensor) -> Tensor:
        """Return the rows of the table at `indices`, shape of `indices` × d."""
        rows = functional.embedding(indices, self.left, self.padding_idx, sparse=self.sparse)
        rows = rows @ self.right
        if self.padding_idx is not None and torch.is_grad_enabled() and rows.requires_grad:
            padding = (indices == self.padding_idx).unsqueeze(-1)
            rows = torch.where(padding, rows.detach(), rows)
        return rows

    def spec(self) -> dict[str, Any]:
        """Return what `__init__` needs to build this layer empty, as JSON can hold it."""
        return {
            "num_embeddings": self.num_embeddings,
            "embedding_dim": self.embedding_dim,
            "rank": self.rank,
            "padding_idx": self.padding_idx,
            "sparse": self.sparse,
        }

    def extra_repr(self) -> str:
        """Return the shapes shown by `print`."""
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}, rank={self.rank}{padding}"


def find_embedding(model: nn.Module, layer: str | None = None) -> tuple[str, nn.Embedding]:
    """Return the dotted name of a network's input embedding, and the layer.

    Parameters
    ----------
    model
        A transformers model, or any module; with several embeddings `layer` must name one.
    layer
        Dotted name of the embedding to take.

    Raises
    ------
    LowRankError
        When there is none, several, or its table is shared with another layer.
    """
    if layer is not None:
        name, found = layer, _named(model, layer)
    else:
        name, found = _input_embedding(model) or _only_embedding(model)
    if found is model:
        raise LowRankError("the network is an embedding itself; wrap it in a module")
    if isinstance(found, FactorizedEmbedding):
        raise LowRankError(f"layer {name!r} is already factorized; start from the dense network")
    if not isinstance(found, nn.Embedding):
        raise LowRankError(f"layer {name!r} is {type(found).__name__}, not nn.Embedding")
    _refuse_tied(model, name, found)
    return name, found


def swap_embedding(model: nn.Module, name: str, factors: Factors) -> None:
    """Replace the embedding `name` by its factors, in place, wherever the network holds it.

    Parameters
    ----------
    name
        Dotted name of an `nn.Embedding` or `FactorizedEmbedding`.

    Raises
    ------
    LowRankError
        When there is no such layer, or it does not fit the factors.
    """
    old = _named(model, name)
    if not isinstance(old, nn.Embedding | FactorizedEmbedding):
        raise LowRankError(f"layer {name!r} is {type(old).__name__}, not nn.Embedding")
    replace_module(model, name, FactorizedEmbedding.from_dense(old, factors))


def replace_module(model: nn.Module, name: str, new: nn.Module) -> None:
    """Put `new` in the place of the layer `name`, under every name that the layer has."""
    old = _named(model, name)
    for parent in model.modules():
        for child, module in list(parent._modules.items()):
            if module is old:
                setattr(parent, child, new)


def _named(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise LowRankError(f"the network has no layer {name!r}") from None


def _input_embedding(model: nn.Module) -> tuple[str, nn.Module] | None:
    """Return what a transformers model calls its input embedding."""
    if not hasattr(model, "get_input_embeddings"):
        return None
    try:
        found = model.get_input_embeddings()
    except NotImplementedError:
        return None
    names = (name for name, module in model.named_modules() if module is found)
    name = next(names, None)
    return None if name is None else (name, found)


def _only_embedding(model: nn.Module) -> tuple[str, nn.Module]:
    kinds = (nn.Embedding, FactorizedEmbedding)
    found = [(name, m) for name, m in model.named_modules() if isinstance(m, kinds)]
    if not found:
        raise LowRankError(f"{type(model).__name__} has no nn.Embedding to compress")
    if len(found) > 1:
        names = ", ".join(repr(name) for name, _ in found)
        raise LowRankError(f"the network has several embeddings: {names}; choose one with layer=")
    return found[0]


def _refuse_tied(model: nn.Module, name: str, embedding: nn.Embedding) -> None:
    for other, module in model.named_modules():
        if module is not embedding and any(
            p is embedding.weight for p in module._parameters.values()
        ):
            raise LowRankError(
                f"layer {name!r} shares its table with {other!r}; give {other!r} a copy of it "
                "first, or the two would part"
            )
