"""Multiply factors out again, to compress a network that was compressed and trained before."""

from typing import Any

import torch
from torch import nn

from lowrank_bench.layers.base import CompressedEmbedding
from lowrank_bench.layers.coded_weight import CodedConv2d, CodedLinear
from lowrank_bench.layers.convolution import FactorizedConv2d
from lowrank_bench.layers.geometry import convolution_options
from lowrank_bench.layers.linear import FactorizedLinear
from lowrank_bench.network.layers import bias_of, replaced, weight_of

LINEAR, CONV = (FactorizedLinear, CodedLinear), (FactorizedConv2d, CodedConv2d)
FACTORIZED = (*LINEAR, *CONV, CompressedEmbedding)


def densified(model: nn.Module) -> nn.Module:
    """Return a copy of a network in which every factorized layer is its dense product.

    Sliced networks are dense already and stay as small as they are.
    """
    factorized = {n: m for n, m in model.named_modules() if isinstance(m, FACTORIZED)}
    return replaced(model, {name: _dense(layer) for name, layer in factorized.items()})


def _dense(layer: nn.Module) -> nn.Module:
    like = next(layer.parameters())
    kind: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
    # A factorized layer may have a bias that the original layer did not have.
    bias = None if isinstance(layer, CompressedEmbedding) else bias_of(layer)
    # The dense layer has the outer shape of the factorized one.
    new: nn.Module
    if isinstance(layer, CompressedEmbedding):
        padding = layer.padding_idx
        new = nn.Embedding(layer.num_embeddings, layer.embedding_dim, padding_idx=padding, **kind)
    elif isinstance(layer, LINEAR):
        new = nn.Linear(layer.in_features, layer.out_features, bias=bias is not None, **kind)
    else:
        assert isinstance(layer, CONV)
        options = {**convolution_options(layer), **kind, "bias": bias is not None}
        tall, wide = layer.kernel_size
        new = nn.Conv2d(layer.in_channels, layer.out_channels, (tall, wide), **options)
    with torch.no_grad():
        weight_of(new).copy_(weight_of(layer))
        if bias is not None:
            fresh = bias_of(new)
            assert fresh is not None
            fresh.copy_(bias)
    return new
