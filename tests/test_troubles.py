"""Stages that are killed, lose artifacts meanwhile, or run by a wrong clock: right results."""

import os
import re
import time

import numpy as np
import pandas as pd
import pytest
import small_store
from killed_run import MEASURED, finished
from stage_children import child, records, remove_one, seconds, shift_files, work

from lowrank_bench.stages.holdings import bring_back, write_holdings
from lowrank_bench.stages.progress import write_plan
from lowrank_bench.stages.runner import Runner
from lowrank_bench.stages.score import run_score
from lowrank_bench.store.holdings import holdings_of
from lowrank_bench.store.store import Store
from lowrank_bench.store.upkeep import unneeded

YEAR = 365 * 86400
CLOCKS = {"download": 0, "checkpoint": -40 * YEAR, "factorize": 40 * YEAR, "evaluate": -YEAR}
REAL = time.time
EXPERIMENT = "results/small"


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """Return a folder in which the small experiment ran undisturbed."""
    folder = tmp_path_factory.mktemp("calm")
    work(folder)
    return folder


def plain(folder):
    """Return the scores of the small experiment without what was measured in time."""
    table = pd.read_parquet(folder / "scores.parquet")
    return table.drop(columns=[name for name in table if re.fullmatch(MEASURED, name)])


def test_stages_that_are_killed_end_in_the_same_scores(tmp_path, calm):
    small_store.plan()  # read once, not in every process
    random, known, hit, kills = np.random.default_rng(5), {}, set(), 0
    while not (tmp_path / "scores.parquet").exists():
        # Longer each time, so that a slow machine comes to the end as well.
        run, limit = child(work, tmp_path, tmp_path / "log"), random.uniform(0, 0.2 + kills / 40)
        while seconds(run.pid) < limit and run.is_alive():
            time.sleep(0.002)
        if run.is_alive():
            run.kill()
            kills += 1
            hit.add((tmp_path / "stage").read_text() if (tmp_path / "stage").exists() else "")
        run.join()
        assert run.exitcode in (0, -9), (tmp_path / "log").read_text()
        now = finished(tmp_path / "store")
        known = {p: stamp for p, stamp in known.items() if "unfinished" not in p.parts}
        assert known.items() <= now.items(), "a finished artifact was made again"
        known = now
        assert kills < 200
    assert kills >= 4, hit
    assert len(hit) >= 2, hit
    pd.testing.assert_frame_equal(plain(tmp_path), plain(calm))


def link(folder, store):
    """Make a folder whose store is that of another."""
    folder.mkdir()
    store.mkdir(exist_ok=True)
    (folder / "store").symlink_to(store)
    return folder


def test_stages_end_right_or_in_one_line_while_artifacts_vanish(tmp_path, calm):
    small_store.plan()
    store, random, gone = tmp_path / "shared", np.random.default_rng(3), []
    here, there = link(tmp_path / "here", store), link(tmp_path / "there", store)
    for _ in range(6):
        runs = {folder: child(work, folder, folder / "log") for folder in (here, there)}
        while any(run.is_alive() for run in runs.values()):
            if len(gone) < 8:
                gone.append(remove_one(store, random))
            time.sleep(0.3)
        for folder, run in runs.items():
            run.join()
            text = (folder / "log").read_text()
            assert run.exitcode in (0, 1), text
            assert "Traceback" not in text
            assert len(re.findall("^error: ", text, re.M)) == run.exitcode, text
        if not any(run.exitcode for run in runs.values()):
            break
    assert set(gone) - {""}
    for folder in (here, there):
        pd.testing.assert_frame_equal(plain(folder), plain(calm))


def set_clock(monkeypatch, shift):
    monkeypatch.setattr(time, "time", lambda: max(REAL() + shift, 0.0))


def test_a_clock_that_jumps_between_stages_changes_no_result(tmp_path, calm, monkeypatch, capsys):
    root, random = tmp_path / "store", np.random.default_rng(0)
    for stage, shift in CLOCKS.items():
        set_clock(monkeypatch, shift)
        write_plan(tmp_path / EXPERIMENT, small_store.plan().stages(), 1)
        set_clock(monkeypatch, -shift)
        outcome = small_store.run(stage, root, tmp_path / EXPERIMENT)
        assert {piece["status"] for piece in outcome} == {"ok"}
        if root.exists():
            shift_files(root, random)
    assert "nan" not in capsys.readouterr().err
    truth, found = records(calm / "store"), records(root)
    assert truth.keys() == found.keys()
    for key, record in truth.items():
        for split, logits in record.predictions.items():
            np.testing.assert_array_equal(found[key].predictions[split], logits)


def test_results_from_the_future_get_the_time_of_now(tmp_path):
    """Snakemake ends a job with an error when its output is older than its input."""
    before, after = tmp_path / "jobs/before.json", tmp_path / "jobs/after.json"
    before.parent.mkdir()
    for place, shift in ((before, -YEAR), (after, YEAR)):
        place.write_text("{}")
        os.utime(place, (REAL() + shift, REAL() + shift))
    bring_back(tmp_path)
    assert abs(after.stat().st_mtime - REAL()) < 60
    assert abs(before.stat().st_mtime - (REAL() - YEAR)) < 60
    bring_back(tmp_path / "absent")  # a first run


def test_what_is_finished_stays_finished_whatever_the_time(tmp_path, calm, monkeypatch):
    root, random = small_store.copy(calm / "store", tmp_path / "store"), np.random.default_rng(1)
    monkeypatch.setattr(
        Runner, "_made", lambda self, step: step.lookup(self.store) or pytest.fail(step.title())
    )
    for shift in (-50 * YEAR, 50 * YEAR):
        set_clock(monkeypatch, shift)
        shift_files(root, random)
        for stage in small_store.RUNS:
            small_store.run(stage, root, tmp_path / EXPERIMENT)
        table = run_score(small_store.config(str(root)), [])["scores"]
        assert "failed" not in set(table["status"])


def test_gc_takes_nothing_that_is_needed_or_younger_than_a_day(tmp_path, calm, monkeypatch):
    root = small_store.copy(calm / "store", tmp_path / "store")
    write_plan(tmp_path / EXPERIMENT, small_store.plan().stages(), 1)
    write_holdings(tmp_path / EXPERIMENT, small_store.plan().stages())
    holdings = holdings_of([tmp_path / "results"])
    open_work = root / "cell/aa/.aabbccdd-open"
    open_work.mkdir(parents=True)
    for shift in (0, -50 * YEAR):  # a clock set back makes what is written now from the future
        set_clock(monkeypatch, shift)
        assert not list(unneeded(Store(root), holdings))
