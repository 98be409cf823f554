"""All work of an experiment in one process: the workflow's own functions, one after another.

    python bare.py FOLDER [OVERRIDE ...]

Results and the store lie in FOLDER. This does everything that a run through Snakemake does except
the HTML page, which Snakemake itself makes.
"""

import json
import os
import sys
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}

from workflow_runs import ROOT

from lowrank_bench.config import load_config
from lowrank_bench.stages import run as stages
from lowrank_bench.stages.experiment import Experiment
from lowrank_bench.stages.settings import Settings
from lowrank_bench.store.store import Store

STAGES = {
    "checkpoint": stages.run_checkpoint,
    "factorize": stages.run_factorize,
    "evaluate": stages.run_evaluate,
    "finetune": stages.run_evaluate,
}


def main(folder: Path, overrides: list[str]) -> None:
    """Run every job, then scores, tables and figures."""
    os.chdir(folder)
    config = load_config(ROOT / "conf", overrides)
    workflow = Experiment(config, overrides)
    known = json.loads(workflow.settings) | {"threads": config.jobs.threads}
    settings = Settings.from_dict(known)
    store, manifests = Store(settings.store), []
    for job in workflow.plan.download:
        stages.run_download(job, store, settings)
    for stage, run in STAGES.items():
        for job in workflow.plan.stages()[stage]:
            place = workflow.folder / "jobs" / stage / f"{job.name}.json"
            stages.write_outcome(place, job, run(job, store, settings))
            manifests += [place] if stage != "factorize" else []
    # Imported here, as jobs do, so that late imports stay late.
    from lowrank_bench.report.figures import write_figures
    from lowrank_bench.report.tables import write_tables
    from lowrank_bench.stages.score import run_score

    found = run_score(config, manifests)
    for name in workflow.score_tables():
        found[name].to_parquet(workflow.folder / f"{name}.parquet", index=False)
    write_tables(**found, folder=workflow.folder)
    write_figures(found["scores"], found["summary"], workflow.folder, config.title)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
