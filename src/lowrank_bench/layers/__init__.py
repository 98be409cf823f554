"""Layers that replace dense ones; `LAYERS` lists those that saved networks can contain."""

from lowrank_bench.layers.base import ReplacementLayer
from lowrank_bench.layers.coded_weight import CodedConv2d, CodedLinear
from lowrank_bench.layers.convolution import FactorizedConv2d
from lowrank_bench.layers.embedding import KINDS
from lowrank_bench.layers.linear import FactorizedLinear

LAYERS: dict[str, type[ReplacementLayer]] = {
    kind.__name__: kind
    for kind in (*KINDS.values(), FactorizedConv2d, FactorizedLinear, CodedConv2d, CodedLinear)
}
