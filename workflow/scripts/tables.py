"""Write the tables of an experiment as csv, markdown and LaTeX."""

from pathlib import Path

import pandas as pd

from lowrank_bench.report.tables import write_tables
from lowrank_bench.stages.script import logged

with logged(snakemake.log[0]):
    found = {name: pd.read_parquet(place) for name, place in snakemake.input.items()}
    write_tables(**found, folder=Path(snakemake.output[0]).parents[1])
