"""Fetch or generate networks and data sets; the only stage that accesses a hub."""

from lowrank_bench.store.sources import Sources

GENERATING = {
    "synthetic": Sources("lowrank_bench.synthetic.tasks"),
    "digits": Sources("lowrank_bench.inputs.vision.digits"),
}
