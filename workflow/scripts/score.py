"""Turn the stored predictions of an experiment into its two result tables."""

import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

from lowrank_bench.config import load_config
from lowrank_bench.stages.score import run_score
from lowrank_bench.stages.script import logged

with logged(snakemake.log[0]):
    conf = Path(snakemake.scriptdir, "../../conf")
    config = load_config(conf, json.loads(snakemake.params.overrides))
    tables = run_score(config, [Path(name) for name in snakemake.input])
    for name, place in snakemake.output.items():
        tables[name].to_parquet(place, index=False)
