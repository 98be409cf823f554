"""Write the tables of an experiment as csv, markdown and LaTeX."""

from pathlib import Path

import pandas as pd

from lowrank_bench.report.tables import write_tables
from lowrank_bench.script import logged

with logged(snakemake.log[0]):
    scores, summary = (pd.read_parquet(name) for name in snakemake.input)
    write_tables(scores, summary, Path(snakemake.output[0]).parents[1])
