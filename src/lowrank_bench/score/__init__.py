"""From stored predictions to the result tables: metrics, intervals, paired tests, averages."""

from lowrank_bench.store.sources import Sources

SOURCES = Sources(
    "lowrank_bench.score.experiment",
    "lowrank_bench.score.evaluated",
    "lowrank_bench.score.glue_metric",  # loaded by its path
)
