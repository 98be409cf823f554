"""Draw the figures of an experiment as PNG and PDF."""

import json
from pathlib import Path

import pandas as pd

from lowrank_bench.report.figures import write_figures
from lowrank_bench.stages.script import logged

with logged(snakemake.log[0]):
    found = {name: pd.read_parquet(place) for name, place in snakemake.input.items()}
    folder = Path(snakemake.output[0]).parents[1]
    write_figures(**found, folder=folder, experiment_title=json.loads(snakemake.params.title))
