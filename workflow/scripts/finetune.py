"""Run one finetune job, without access to a hub."""

from lowrank_bench.stages.run import run_evaluate
from lowrank_bench.stages.script import job_script

job_script(snakemake, run_evaluate, offline=True)
