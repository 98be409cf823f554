import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.19")

from lowrank_bench.stages.submission import cores_at_once, lift_rate, submissions
from lowrank_bench.stages.experiment import load_experiment

EXPERIMENT = load_experiment(Path(workflow.basedir, "conf"), config)
if workflow.is_main_process and "--report" not in sys.argv:  # a report runs nothing again
    EXPERIMENT.reopen()
config["report"] = EXPERIMENT.report_words()


report: "workflow/report/workflow.rst"


include: "workflow/rules/files.smk"
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
