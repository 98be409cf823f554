"""Run one finetune job, without asking any hub."""

from lowrank_bench.script import job_script
from lowrank_bench.stages import run_evaluate

job_script(snakemake, run_evaluate, offline=True)
