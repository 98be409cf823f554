"""Checkpoints: a network fine-tuned on one task, or a published one whose labels are checked."""

from lowrank_bench.store.sources import Sources

TRAINING = Sources("lowrank_bench.checkpoint.train")
STOPPING = Sources("lowrank_bench.inputs.held_out")  # where a recipe has `patience`
# Networks that are built here and not fetched.
BUILDING = {
    "synthetic": Sources("lowrank_bench.synthetic.networks"),
    "vision": Sources("lowrank_bench.inputs.vision.build"),
}
