"""Run one checkpoint job, without asking any hub."""

from lowrank_bench.script import job_script
from lowrank_bench.stages import run_checkpoint

job_script(snakemake, run_checkpoint, offline=True)
