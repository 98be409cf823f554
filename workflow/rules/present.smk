from lowrank_bench.report.names import FIGURE_FORMATS, SHARED_FIGURES, drop_stem, figure_names, table_names


rule tables:
    # The result tables as csv, markdown and LaTeX.
    input:
        scores=f"{RESULTS}/scores.parquet",
        summary=f"{RESULTS}/summary.parquet",
    output:
        report(
            [f"{RESULTS}/{name}" for name in table_names() if name.endswith(".csv")],
            category="Tables",
            caption="../report/table.rst",
        ),
        [f"{RESULTS}/{name}" for name in table_names() if not name.endswith(".csv")],
    log:
        f"logs/{EXPERIMENT.config.name}/tables.log",
    threads: 1
    params:
        digest=EXPERIMENT.present_digest,
    message:
        "tables"
    script:
        "../scripts/tables.py"
