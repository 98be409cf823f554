"""Find the input embedding of a network, and replace it by a compressed one."""

from typing import Any

from torch import nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.layers.base import CompressedEmbedding
from lowrank_bench.layers.blocks import BlockEmbedding
from lowrank_bench.layers.clustered import ClusteredEmbedding
from lowrank_bench.layers.coded import CodedEmbedding
from lowrank_bench.layers.factorized import FactorizedEmbedding
from lowrank_bench.layers.plain import tied_by
from lowrank_bench.layers.sparse import SparseEmbedding
from lowrank_bench.linalg.coding.coded import Coded
from lowrank_bench.linalg.coding.kinds import CODES
from lowrank_bench.linalg.factors import (
    Approximation,
    BlockFactors,
    ClusteredFactors,
    Factors,
    SparseFactors,
)

KINDS: dict[type[Approximation], type[CompressedEmbedding[Any]]] = {
    Factors: FactorizedEmbedding,
    ClusteredFactors: ClusteredEmbedding,
    BlockFactors: BlockEmbedding,
    SparseFactors: SparseEmbedding,
    **dict.fromkeys(CODES, CodedEmbedding),
}


def compressed_embedding(embedding: nn.Module, factors: Approximation) -> CompressedEmbedding[Any]:
    """Return the layer that replaces `embedding` by `factors`, on its device, in its precision.

    Parameters
    ----------
    embedding
        An `nn.Embedding` or a compressed one.

    Raises
    ------
    LowRankError
        When the shapes differ, or the embedding has an option that factors cannot honour.
    """
    assert isinstance(embedding, nn.Embedding | CompressedEmbedding)
    if isinstance(factors, Coded):
        return CodedEmbedding.from_dense(embedding, factors)
    return KINDS[type(factors)].from_dense(embedding, factors)


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
        When the network has no embedding or several, or its table is shared with another layer.
    """
    if layer is not None:
        name, embedding = layer, _named(model, layer)
    else:
        name, embedding = _input_embedding(model) or _only_embedding(model)
    if embedding is model:
        raise LowRankError("the network is an embedding itself; wrap it in a module")
    if isinstance(embedding, CompressedEmbedding):
        raise LowRankError(f"layer {name!r} is already compressed; start from the dense network")
    if not isinstance(embedding, nn.Embedding):
        raise LowRankError(f"layer {name!r} is {type(embedding).__name__}, not nn.Embedding")
    _refuse_tied(model, name, embedding)
    return name, embedding


def swap_embedding(model: nn.Module, name: str, factors: Approximation) -> None:
    """Replace the embedding `name` by its factors, in place, wherever the network holds it.

    Parameters
    ----------
    name
        Dotted name of an `nn.Embedding` or a compressed one.

    Raises
    ------
    LowRankError
        When the network has no such layer, or it does not fit the factors.
    """
    old = _named(model, name)
    if not isinstance(old, nn.Embedding | CompressedEmbedding):
        raise LowRankError(f"layer {name!r} is {type(old).__name__}, not nn.Embedding")
    replace_module(model, name, compressed_embedding(old, factors))


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
    get_embedding = getattr(model, "get_input_embeddings", None)
    if get_embedding is None:
        return None
    try:
        embedding = get_embedding()
    except Exception:  # networks of several inputs have none to name, and say so in many ways
        return None
    named = ((name, module) for name, module in model.named_modules() if module is embedding)
    return next(named, None)


def _only_embedding(model: nn.Module) -> tuple[str, nn.Module]:
    kinds = (nn.Embedding, CompressedEmbedding)
    embeddings = [(name, m) for name, m in model.named_modules() if isinstance(m, kinds)]
    if not embeddings:
        raise LowRankError(f"{type(model).__name__} has no nn.Embedding to compress")
    if len(embeddings) > 1:
        names = ", ".join(repr(name) for name, _ in embeddings)
        raise LowRankError(
            f"the network has several embeddings: {names}; choose one with layer=, or let its "
            "get_input_embeddings return one"
        )
    return embeddings[0]


def _refuse_tied(model: nn.Module, name: str, embedding: nn.Embedding) -> None:
    inside = set(embedding.modules())  # a parametrization is refused by what it is
    for other, module in model.named_modules():
        for local, parameter in module._parameters.items():
            if parameter is embedding.weight and module not in inside:
                raise LowRankError(
                    f"layer {name!r} shares its table with {other or local!r}{tied_by(model)}; "
                    "tied tables cannot be compressed yet"
                )
