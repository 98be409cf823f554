"""Run one factorize job, without access to a hub."""

from lowrank_bench.stages.run import run_factorize
from lowrank_bench.stages.script import job_script

job_script(snakemake, run_factorize, offline=True)
