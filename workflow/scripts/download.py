"""Run one download job."""

from lowrank_bench.script import job_script
from lowrank_bench.stages import run_download

job_script(snakemake, lambda job, store, settings: run_download(job, store))
