"""Texts: pretrained networks, tokens, batches, training and prediction."""

from lowrank_bench.inputs.sources import InputSources
from lowrank_bench.store.sources import Sources

SOURCES = InputSources(
    starting=Sources("lowrank_bench.inputs.text.pretrained"),
    published=Sources("lowrank_bench.inputs.labels"),
    encoding=Sources("lowrank_bench.inputs.text.encode"),
    batching=Sources("lowrank_bench.inputs.text.batches"),
    training=Sources("lowrank_bench.inputs.text.finetune"),
    predicting=Sources("lowrank_bench.inputs.text.predict"),
)
