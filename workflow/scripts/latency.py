"""Measure the compressed networks of an experiment against the dense ones."""

import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

from lowrank_bench.config import load_config
from lowrank_bench.plan.grid import make_plan
from lowrank_bench.stages.latency import run_latency
from lowrank_bench.stages.script import logged

with logged(snakemake.log[0]):
    conf = Path(snakemake.scriptdir, "../../conf")
    config = load_config(conf, json.loads(snakemake.params.overrides))
    run_latency(config, make_plan(config)).to_parquet(snakemake.output[0], index=False)
