"""Decompose a checkpoint's embedding once for all ranks, or compress a whole network."""

from lowrank_bench.store.sources import Sources

MATRIX = Sources("lowrank_bench.factorize.decompose")
NETWORK = Sources("lowrank_bench.factorize.network")
AGAIN = Sources("lowrank_bench.factorize.again")
# The sources of the facts that methods need in addition to the weights.
FACTS = {
    "frequency": Sources("lowrank_bench.inputs.text.vocabulary"),
    "counts": Sources("lowrank_bench.inputs.text.counts", "lowrank_bench.inputs.rows"),
    "fisher": Sources("lowrank_bench.factorize.fisher", "lowrank_bench.inputs.rows"),
}
CALIBRATION = dict.fromkeys(("inputs", "labels"), Sources("lowrank_bench.inputs.rows"))
