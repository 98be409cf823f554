"""Layers that replace dense ones; `LAYERS` names those that saved models can contain."""

from lowrank_bench.layers.embedding import KINDS

LAYERS = {kind.__name__: kind for kind in KINDS.values()}
