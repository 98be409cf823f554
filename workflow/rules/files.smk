"""Names of the files that the rules write."""

from lowrank_bench.report.names import (
    drop_stem,
    figure_names,
    label_text,
    shared_figures,
    table_names,
)

RESULTS = EXPERIMENT.folder.as_posix()
MEASURED = bool(EXPERIMENT.config.latency.batches)
LATENCY = {"latency": f"{RESULTS}/latency.parquet"} if MEASURED else {}
FIGURES = figure_names(EXPERIMENT.config.model, MEASURED)
SCORES = {name: f"{RESULTS}/{name}.parquet" for name in EXPERIMENT.score_tables()}
TABLES = {
    "csv": [name for name in table_names(SCORES | LATENCY) if name.endswith(".csv")],
    "other": [name for name in table_names(SCORES | LATENCY) if not name.endswith(".csv")],
}
