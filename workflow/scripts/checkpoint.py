"""Run one checkpoint job, without access to a hub."""

from lowrank_bench.stages.run import run_checkpoint
from lowrank_bench.stages.script import job_script

job_script(snakemake, run_checkpoint, offline=True)
