"""Images: networks for small images, decoding, augmentation, training and prediction."""

from lowrank_bench.inputs.sources import InputSources
from lowrank_bench.store.sources import Sources

SOURCES = InputSources(
    starting=Sources("lowrank_bench.inputs.vision.build"),
    published=Sources("lowrank_bench.inputs.vision.published"),
    encoding=Sources("lowrank_bench.inputs.vision.images"),
    batching=Sources("lowrank_bench.inputs.vision.images"),
    training=Sources("lowrank_bench.inputs.vision.training"),
    predicting=Sources("lowrank_bench.inputs.vision.predict"),
)
