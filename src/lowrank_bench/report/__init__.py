"""Tables and figures of one experiment, made from its scores and their summary."""

from lowrank_bench.store.sources import Sources

SOURCES = Sources(
    "lowrank_bench.report.figures",
    "lowrank_bench.report.costs",
    "lowrank_bench.report.tables",
)
