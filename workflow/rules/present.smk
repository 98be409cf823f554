rule tables:
    # Result tables as csv, markdown and LaTeX.
    input:
        **SCORES,
        **LATENCY,
    output:
        [
            report(
                f"{RESULTS}/{name}",
                category="Tables",
                labels={"table": Path(name).stem.replace("_", " ")},
                caption=f"../report/table_{Path(name).stem}.rst",
            )
            for name in TABLES["csv"]
        ],
        [f"{RESULTS}/{name}" for name in TABLES["other"]],
    log:
        f"logs/{EXPERIMENT.config.name}/tables.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        digest=EXPERIMENT.present_digest,
    message:
        "tables"
    script:
        "../scripts/tables.py"


rule figures:
    # Drop against compression by task and on average, gain over svd, error against drop, costs.
    input:
        **LATENCY,
        scores=f"{RESULTS}/scores.parquet",
        summary=f"{RESULTS}/summary.parquet",
    output:
        [
            report(
                f"{RESULTS}/figures/{drop_stem(model)}.png",
                category="Drop against compression",
                labels={"network": label_text(EXPERIMENT.config.model[model].title)},
                caption="../report/drop.rst",
            )
            for model in EXPERIMENT.config.model
        ],
        [
            report(
                f"{RESULTS}/figures/{stem}.png",
                category="All networks",
                labels={"figure": stem.replace("_", " ")},
                caption=f"../report/{stem}.rst",
            )
            for stem in shared_figures(MEASURED)
        ],
        [f"{RESULTS}/{name}" for name in FIGURES if name.endswith(".pdf")],
    log:
        f"logs/{EXPERIMENT.config.name}/figures.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1500,
    params:
        digest=EXPERIMENT.present_digest,
        title=EXPERIMENT.title_json,
    message:
        "figures"
    script:
        "../scripts/figures.py"


rule report:
    # One self-contained HTML page, written by Snakemake itself.
    input:
        rules.tables.output,
        rules.figures.output,
    output:
        f"{RESULTS}/report.html",
    log:
        f"logs/{EXPERIMENT.config.name}/report.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1500,
    params:
        overrides=EXPERIMENT.overrides_json,
    message:
        "report"
    script:
        "../scripts/report.py"
