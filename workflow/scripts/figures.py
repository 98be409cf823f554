"""Draw the figures of an experiment as PNG and PDF."""

from pathlib import Path

import pandas as pd

from lowrank_bench.report.figures import write_figures
from lowrank_bench.script import logged

with logged(snakemake.log[0]):
    scores, summary = (pd.read_parquet(name) for name in snakemake.input)
    folder = Path(snakemake.output[0]).parents[1]
    write_figures(scores, summary, folder, snakemake.params.title)
