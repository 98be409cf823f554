"""Layers that replace dense ones; `LAYERS` names those that saved models can contain."""

from lowrank_bench.layers.embedding import FactorizedEmbedding

LAYERS = {"FactorizedEmbedding": FactorizedEmbedding}
