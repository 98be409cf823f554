from pathlib import Path

from snakemake.utils import min_version

min_version("9.19")

from lowrank_bench.report.names import (
    drop_stem,
    figure_names,
    label_text,
    shared_figures,
    table_names,
)
from lowrank_bench.stages.submission import cores_at_once, lift_rate, submissions
from lowrank_bench.stages.experiment import load_experiment

EXPERIMENT = load_experiment(Path(workflow.basedir, "conf"), config)
if workflow.is_main_process:
    EXPERIMENT.reopen()
config["report"] = EXPERIMENT.report_words()
RESULTS = EXPERIMENT.folder.as_posix()
MEASURED = bool(EXPERIMENT.config.latency.batches)
LATENCY = {"latency": f"{RESULTS}/latency.parquet"} if MEASURED else {}
FIGURES = figure_names(EXPERIMENT.config.model, MEASURED)
SCORES = {name: f"{RESULTS}/{name}.parquet" for name in EXPERIMENT.score_tables()}
TABLES = {
    "csv": [name for name in table_names(SCORES | LATENCY) if name.endswith(".csv")],
    "other": [name for name in table_names(SCORES | LATENCY) if not name.endswith(".csv")],
}


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/download.smk"
include: "workflow/rules/checkpoint.smk"
include: "workflow/rules/factorize.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/finetune.smk"
include: "workflow/rules/score.smk"
include: "workflow/rules/present.smk"


if MEASURED:

    include: "workflow/rules/latency.smk"


localrules:
    all,
    download,
    tables,
    figures,
    report,


rule all:
    default_target: True
    input:
        EXPERIMENT.all_manifests(),  # or what is lost of a finished experiment would not be missed
        f"{RESULTS}/scores.parquet",
        f"{RESULTS}/report.html",


onstart:
    lift_rate(workflow)
    EXPERIMENT.announce(cores_at_once(workflow), submissions(workflow))


onsuccess:
    EXPERIMENT.conclude()
