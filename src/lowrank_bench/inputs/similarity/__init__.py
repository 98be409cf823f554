"""Sentences: a network as it is, as an encoder; similarity as the cosine of two vectors."""

from lowrank_bench.inputs.sources import InputSources
from lowrank_bench.store.sources import Sources

SOURCES = InputSources(
    starting=Sources("lowrank_bench.inputs.similarity.encoder"),
    published=Sources("lowrank_bench.inputs.similarity.encoder"),
    encoding=Sources("lowrank_bench.inputs.similarity.sentences"),
    batching=Sources("lowrank_bench.inputs.similarity.sentences"),
    training=Sources(),  # nothing is trained
    predicting=Sources("lowrank_bench.inputs.similarity.vectors"),
)
