"""Run one factorize job, without asking any hub."""

from lowrank_bench.script import job_script
from lowrank_bench.stages import run_factorize

job_script(snakemake, run_factorize, offline=True)
