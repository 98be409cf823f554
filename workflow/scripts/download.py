"""Run one download job."""

from lowrank_bench.stages.run import run_download
from lowrank_bench.stages.script import job_script

job_script(snakemake, run_download)
