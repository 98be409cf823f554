"""Fetch or generate what everything rests on; the only stage that talks to a hub."""

from lowrank_bench.store.sources import Sources

GENERATING = {
    "synthetic": Sources("lowrank_bench.synthetic.tasks"),
    "digits": Sources("lowrank_bench.inputs.vision.digits"),
}
