"""Turn the stored predictions of an experiment into its two result tables."""

import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

from lowrank_bench.config import load_config
from lowrank_bench.score.gather import score_experiment
from lowrank_bench.stages.script import logged

with logged(snakemake.log[0]):
    conf = Path(snakemake.scriptdir, "../../conf")
    config = load_config(conf, json.loads(snakemake.params.overrides))
    found = score_experiment(config, [Path(name) for name in snakemake.input])
    for name, place in snakemake.output.items():
        found[name].to_parquet(place, index=False)
