"""One store, several writers: processes that race for a key, and concurrent runs."""

import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from safetensors import safe_open
from small_store import RUNS

from lowrank_bench.config import load_config
from lowrank_bench.plan.grid import make_plan
from lowrank_bench.stages.progress import Progress, write_plan
from lowrank_bench.stages.score import run_score
from lowrank_bench.stages.settings import settings_of
from lowrank_bench.store.files import write_atomic
from lowrank_bench.store.store import Store

PROJECT = Path(__file__).parents[1]
FILES = ("Snakefile", "conf", "workflow", "profiles", "src", "environment.yml")
MEASURED = "created_at|git_commit|.*_seconds"
FOUND = ["value", "dense_value", "parameters_kept", "rel_error_fro", "rel_error_l1"]
SMALL = [
    "model=[quick_bert]",
    "task=[quick_rte]",
    "compressions=[0.3,0.8]",
    "recipe.epochs=1",
    "model.quick_bert.recipe={epochs: 1}",
    "statistics.resamples=100",
]
WRITERS, KEYS, PARTS = 5, 40, 25
processes = multiprocessing.get_context("fork")


def ensure(store, key, writer):
    """Find an artifact or make it; all its files contain the number of one writer."""
    if store.folder("kind", key) is None:
        with store.new_folder("kind", key, {"writer": writer}) as fresh:
            for part in range(PARTS):
                (fresh / f"{part}.txt").write_text(str(writer) * 300)
    return store.folder("kind", key)


def write_all(root, writer, barrier, failures):
    store = Store(root)
    try:
        for number in range(KEYS):
            barrier.wait(60)
            key = f"{number:06d}"
            if ensure(store, key, writer) is None:
                failures.put(f"writer {writer} finds nothing under {key}")
            write_atomic(root / "file", str(writer) * 100_000)
            text = (root / "file").read_text()
            if len(text) != 100_000 or len(set(text)) != 1:
                failures.put(f"writer {writer} reads half a file")
    except Exception as error:
        failures.put(repr(error))
        barrier.abort()


@pytest.mark.parametrize("damaged", [False, True])
def test_processes_that_race_for_the_same_keys_leave_whole_artifacts(tmp_path, damaged, capfd):
    store = Store(tmp_path)
    if damaged:
        for number in range(KEYS):
            (ensure(store, f"{number:06d}", 9) / "1.txt").write_text("cut short")
    barrier, failures = processes.Barrier(WRITERS), processes.Queue()
    crew = [
        processes.Process(target=write_all, args=(tmp_path, writer, barrier, failures))
        for writer in range(WRITERS)
    ]
    for process in crew:
        process.start()
    for process in crew:
        process.join(120)
    assert [process.exitcode for process in crew] == [0] * WRITERS
    assert failures.empty(), failures.get()
    for number in range(KEYS):
        folder = store.folder("kind", f"{number:06d}", deep=True)
        written = {(folder / f"{part}.txt").read_text() for part in range(PARTS)}
        assert len(written) == 1
        assert written <= {str(writer) * 300 for writer in range(WRITERS)}
    left = {path.name for path in (tmp_path / "kind").glob("*/*")}
    assert left == {f"{number:06d}" for number in range(KEYS)}


def test_a_torn_line_in_the_progress_file_is_skipped(tmp_path, capsys):
    write_atomic(tmp_path / "plan.json", json.dumps({"started": 0, "cores": 1, "keys": {}}))
    (tmp_path / "progress.jsonl").write_text('{"t": 1, "sta{"t": 2, "stage": "evalu\n')
    Progress(tmp_path, "evaluate", Store(tmp_path)).finished("a cell")
    assert "a cell" in capsys.readouterr().err


def start(folder, name, store, *overrides):
    """Start a run up to the scores; two runs in one folder are kept apart by their names."""
    folder.mkdir(exist_ok=True)
    for part in FILES:
        source, place = PROJECT / part, folder / part
        if not place.exists():
            (shutil.copytree if source.is_dir() else shutil.copy)(source, place)
    settings = json.dumps([*SMALL, f"name={name}", f"store={store}", *overrides])
    command = [sys.executable, "-m", "snakemake", "--cores", "1", f"results/{name}/scores.parquet"]
    environment = os.environ | {
        "PYTHONPATH": str(folder / "src"),
        "PYTHONDONTWRITEBYTECODE": "",  # in the copy, which three runs use
    }
    return subprocess.Popen(
        [*command, "--config", f"overrides={settings}"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(run):
    text = run.communicate(timeout=600)[0]
    assert run.returncode == 0, text
    return text


def scores(folder, name):
    table = pd.read_parquet(folder / "results" / name / "scores.parquet")
    assert set(table["status"]) == {"ok"}
    return table.drop(columns=[name for name in table if re.fullmatch(MEASURED, name)])


def alone(folder, name, *overrides):
    """Return the scores of an experiment whose stages run one after the other in this process."""
    store = folder / "store"
    words = [*SMALL, f"name={name}", f"store={store}", *overrides]
    config = load_config(PROJECT / "conf", words)
    plan = make_plan(config)
    settings = replace(settings_of(config), folder=folder / "results" / name)
    write_plan(settings.folder, plan.stages(), 1)
    for stage, run in RUNS.items():
        for job in plan.stages()[stage]:
            assert {piece["status"] for piece in run(job, Store(store), settings)} == {"ok"}
    run_score(config, [])["scores"].to_parquet(settings.folder / "scores.parquet", index=False)
    return scores(folder, name)


def test_runs_at_the_same_time_share_a_store(tmp_path):
    here, there, store = tmp_path / "here", tmp_path / "there", tmp_path / "store"
    runs = [
        start(here, "one", store, "method=[svd]"),
        start(there, "two", store, "method=[svd,lp]", "method.lp.grid.p=[1]"),
        start(here, "three", store, "method=[svd]", "compressions=[0.8,0.9]"),
    ]
    for run in runs:
        finish(run)
    truth = alone(tmp_path / "alone", "one", "method=[svd]")
    pd.testing.assert_frame_equal(scores(here, "one"), truth)
    for folder, name, rates in ((there, "two", {0.3, 0.8}), (here, "three", {0.8})):
        assert cells(scores(folder, name), rates) == cells(truth, rates)
    check(store)


def cells(table, rates):
    """Return the results of the cells that all runs share, by rate and metric."""
    shared = table[(table["method"] == "svd") & table["compression"].isin(rates)]
    shared = shared[shared["task"] == "quick_rte"].set_index(["compression", "metric"])
    assert {rate for rate, _ in shared.index} == rates
    return shared[FOUND].to_dict("index")


def check(store):
    """Assert that every artifact in a store is whole and that no writer left anything behind."""
    places = list(store.glob("*/*/*"))
    assert not [place for place in places if place.name.startswith(".")]
    for place in places:
        if place.is_dir():
            assert Store(store).folder(place.parts[-3], place.name, deep=True)
        else:
            with safe_open(place, framework="np") as file:
                assert all(file.get_tensor(split).size for split in file.keys())  # noqa: SIM118
