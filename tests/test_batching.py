"""How work is batched: nothing twice, nothing left out, no more processes than needed."""

import json
from pathlib import Path

import pytest

from lowrank_bench.config import load_config
from lowrank_bench.plan.cells import Job
from lowrank_bench.plan.grid import make_plan
from lowrank_bench.stages.experiment import Experiment
from lowrank_bench.stages.progress import Progress, write_plan
from lowrank_bench.store.store import Store

CONF = Path(__file__).parents[1] / "conf"


def plan_of(*overrides):
    return make_plan(load_config(CONF, overrides))


def test_one_job_generates_all_synthetic_data_and_each_download_has_its_own():
    made = plan_of().download
    assert len(made) == 1
    assert len({source.key for source in made[0].sources}) == 10
    assert all(len(job.sources) == 1 for job in plan_of("experiment=minilm_glue").download)


def test_every_checkpoint_job_waits_only_for_its_own_data():
    overrides = ["experiment=minilm_glue", "jobs.tasks_per_checkpoint_job=1"]
    workflow = Experiment(load_config(CONF, overrides), overrides)
    sources = {
        f"results/minilm_glue/jobs/download/{job.name}.json": {s.key for s in job.sources}
        for job in workflow.plan.download
    }
    for job in workflow.plan.checkpoint:
        before = workflow.manifests_before("checkpoint", job.name)
        given = set().union(*(sources[name] for name in before))
        assert given == {s.key for point in job.checkpoints for s in point.fetched()}


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 3, 4), (9, 9, 20)])
def test_other_batches_hold_the_same_cells(sizes):
    names = ("tasks_per_checkpoint_job", "tasks_per_job", "methods_per_job")
    plan = plan_of(*(f"jobs.{name}={size}" for name, size in zip(names, sizes, strict=True)))
    keys = [cell.key for cell in plan.cells()]
    assert len(keys) == len(set(keys))
    assert set(keys) == {cell.key for cell in plan_of().cells()}


def test_the_quickstart_has_one_or_two_jobs_per_stage_for_each_of_eight_cores():
    plan = plan_of()
    for jobs in (plan.checkpoint, plan.factorize, plan.evaluate):
        assert 8 <= len(jobs) <= 10


def test_progress_counts_what_appears_in_the_store(tmp_path, capsys):
    store = Store(tmp_path / "store")
    job = plan_of("model=[quick_bert]", "task=[quick_rte]", "method=[svd]").evaluate[0]
    stages: dict[str, tuple[Job, ...]] = dict.fromkeys(("checkpoint", "factorize", "finetune"), ())
    write_plan(tmp_path, {**stages, "evaluate": (job,)}, 1)
    progress = Progress(tmp_path, "evaluate", store)
    shown = []
    for cell in job.cells()[:3]:
        place = store.place("cell", cell.key, ".safetensors")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
        progress.show(cell.title()) if shown else progress.finished(cell.title())
        shown.append(capsys.readouterr().err.split(" cells")[0])
    assert shown == [f"[evaluate] {number} of {len(job.cells())}" for number in (1, 2, 3)]
    assert len(json.loads((tmp_path / "plan.json").read_text())["keys"]["evaluate"]) == len(
        job.cells()
    )
