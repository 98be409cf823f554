"""Multiply factors out again, to compress a network that was trained after a compression."""

import torch
from torch import nn

from lowrank_bench.layers.base import CompressedEmbedding
from lowrank_bench.layers.convolution import FactorizedConv2d
from lowrank_bench.layers.geometry import convolution_options
from lowrank_bench.layers.linear import FactorizedLinear
from lowrank_bench.network.layers import replaced

FACTORIZED = (FactorizedConv2d, FactorizedLinear, CompressedEmbedding)


def densified(model: nn.Module) -> nn.Module:
    """Return a copy of a network in which every factorized layer is its dense product.

    Sliced networks are dense already: they stay as small as they are.
    """
    found = {n: m for n, m in model.named_modules() if isinstance(m, FACTORIZED)}
    return replaced(model, {name: _dense(layer) for name, layer in found.items()})


def _dense(layer: nn.Module) -> nn.Module:
    like = next(layer.parameters())
    kind = {"device": like.device, "dtype": like.dtype}
    bias = getattr(layer, "bias", None)
    if isinstance(layer, CompressedEmbedding):
        size = (layer.num_embeddings, layer.embedding_dim)
        new: nn.Module = nn.Embedding(*size, padding_idx=layer.padding_idx, **kind)
        bias = None  # a part of the table
    elif isinstance(layer, FactorizedLinear):
        size = (layer.in_features, layer.out_features)
        new = nn.Linear(*size, bias=bias is not None, **kind)
    else:
        size = (layer.in_channels, layer.out_channels, layer.kernel_size)
        new = nn.Conv2d(*size, bias=bias is not None, **convolution_options(layer), **kind)
    with torch.no_grad():
        new.weight.copy_(layer.weight)
        if bias is not None:
            new.bias.copy_(bias)
    return new
