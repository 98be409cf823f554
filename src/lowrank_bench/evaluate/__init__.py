"""Predict with compressed networks, train them further, and measure what they cost."""

from lowrank_bench.store.sources import Sources

PREDICTING = Sources("lowrank_bench.evaluate.predictions")
RETRAINING = Sources("lowrank_bench.evaluate.retrain")
MEASURING = Sources("lowrank_bench.evaluate.latency")
_COUNTED = Sources("lowrank_bench.network.count")
# What turns factors into a network and its facts, by target.
COMPRESSED = {
    "embedding": Sources("lowrank_bench.evaluate.compressed"),
    "linear": _COUNTED,
    "conv": _COUNTED,
}
