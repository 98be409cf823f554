"""Turn the stored predictions of an experiment into its two result tables."""

import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

from lowrank_bench.config import load_config
from lowrank_bench.score.gather import score_experiment
from lowrank_bench.script import logged

with logged(snakemake.log[0]):  # noqa: F821
    conf = Path(snakemake.scriptdir, "../../conf")  # noqa: F821
    config = load_config(conf, json.loads(snakemake.params.overrides))  # noqa: F821
    scores, summary = score_experiment(config, [Path(name) for name in snakemake.input])  # noqa: F821
    scores.to_parquet(snakemake.output.scores, index=False)  # noqa: F821
    summary.to_parquet(snakemake.output.summary, index=False)  # noqa: F821
