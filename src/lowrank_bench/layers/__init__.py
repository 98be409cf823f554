"""Layers that replace dense ones; `LAYERS` names those that saved models can contain."""

from torch import nn

from lowrank_bench.layers.convolution import FactorizedConv2d
from lowrank_bench.layers.embedding import KINDS
from lowrank_bench.layers.linear import FactorizedLinear

LAYERS: dict[str, type[nn.Module]] = {
    kind.__name__: kind for kind in (*KINDS.values(), FactorizedConv2d, FactorizedLinear)
}
