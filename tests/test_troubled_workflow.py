"""The workflow itself in trouble: kills, a shared store that loses artifacts, files of any time."""

import os
import re
import shutil
import subprocess
import time

import numpy as np
import pandas as pd
import pytest
from killed_run import LATE, copy_project, pieces, scores, start, suffer
from stage_children import remove_one, shift_files
from test_workflow import TINY

PLAN = {"planning": 5, "download": 5, "checkpoint": 9, "factorize": 9, "evaluate": 12, "score": 6}
PLAN |= {"tables": 1, "figures": 2, "report": 4}
EXPERIMENTS = {"tiny": (TINY, 1.0), "quickstart": ([], 4.0)}
pytestmark = pytest.mark.campaign


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_fifty_kills_change_nothing(tmp_path, name):
    killed, calm = copy_project(tmp_path / "killed"), copy_project(tmp_path / "calm")
    overrides, longer = EXPERIMENTS[name]
    tally = suffer(killed, overrides, PLAN, seed=13, longer=longer)
    print(f"{name}: {tally.starts} starts, {tally.kills.total()} kills: {dict(tally.kills)}")
    assert not tally.again
    done, all_pieces = pieces(killed)
    print(f"finished by the jobs' own lines {dict(done)}, in the plan {dict(all_pieces)}")
    assert all(done[stage] <= count for stage, count in all_pieces.items())
    assert start(calm, overrides, calm / "run.log").wait() == 0
    pd.testing.assert_frame_equal(scores(killed), scores(calm))
    late = sum(count for hit, count in tally.kills.items() if set(hit.split("+")) & set(LATE))
    print(f"{late} kills in score and report; the scores are those of an undisturbed run")
    assert tally.kills.total() >= 50
    assert late >= 10


@pytest.mark.parametrize("seed", range(3))
def test_campaign_of_workflows_while_artifacts_vanish(tmp_path, seed):
    random, store = np.random.default_rng(seed), tmp_path / "store"
    names = {"one": [], "two": ["compressions=[0.3,0.5]"]}
    folders = {name: copy_project(tmp_path / name) for name in names}
    shared = {name: [*TINY, *more, f"store={store}"] for name, more in names.items()}
    gone, failed = [], 0
    for attempt in range(4):
        runs = {
            name: start(folder, shared[name], folder / f"run{attempt}.log", cores=1)
            for name, folder in folders.items()
        }
        while any(run.poll() is None for run in runs.values()):
            if attempt < 2:  # one in about four seconds
                gone.append(remove_one(store, random))
            time.sleep(float(random.uniform(0.5, 8)))
        for name, run in runs.items():
            text = (folders[name] / f"run{attempt}.log").read_text()
            assert "Traceback" not in text, text[-4000:]
            if run.returncode:
                failed += 1
                assert re.search("^error: .*the same command resumes", text, re.M), text[-4000:]
        if not any(run.returncode for run in runs.values()) and attempt >= 1:
            break
    assert not any(run.returncode for run in runs.values())
    calm = copy_project(tmp_path / "calm")
    for name, more in names.items():
        assert start(calm, [*TINY, *more], calm / "run.log").wait() == 0
        pd.testing.assert_frame_equal(scores(folders[name]), scores(calm))
    print(
        f"seed {seed}: {len([g for g in gone if g])} artifacts removed, {failed} runs ended early"
    )


def test_a_workflow_recomputes_and_skips_nothing_wrongly(tmp_path):
    folder, random = copy_project(tmp_path / "project"), np.random.default_rng(2)
    assert start(folder, TINY, folder / "first.log").wait() == 0
    truth = scores(folder)
    for number in range(5):
        shift_files(folder / "results", random)
        assert start(folder, TINY, folder / "again.log").wait() == 0
        text = (folder / "again.log").read_text()
        assert not [line for line in text.splitlines() if "cells computed" in line
                    and ": 0 cells computed" not in line]  # fmt: skip
        print(f"files of random times, {number}: {'Nothing to be done' in text}")
        pd.testing.assert_frame_equal(scores(folder), truth)
    cells = sorted((folder / "results/store/cell").glob("*/*"))
    for cell in cells[::2]:
        cell.unlink()
    shift_files(folder / "results", random)
    assert start(folder, TINY, folder / "lost.log").wait() == 0
    assert len(list((folder / "results/store/cell").glob("*/*"))) == len(cells)
    pd.testing.assert_frame_equal(scores(folder), truth)
    more = [*TINY, "compressions=[0.3,0.5,0.8]"]
    shift_files(folder / "results", random)
    assert start(folder, more, folder / "more.log").wait() == 0
    assert set(scores(folder)["compression"]) == {0, 0.3, 0.5, 0.8}


@pytest.fixture
def disk(tmp_path):
    """A filesystem of its own of 96 MB, where one may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


LAST = {  # what stages write last, with the kB that are left for it
    "score": (("scores.parquet", "summary.parquet", "halves.parquet"), 40),
    "tables": (("tables",), 40),
    "figures": (("figures",), 80),
    "report": (("report.html",), 400),
}


def test_a_full_disk_in_the_last_stages_costs_one_line_and_no_result(tmp_path, disk):
    """Everything lies on the disk that fills up: code, store, results, and Snakemake's records."""
    folder = copy_project(disk / "project")
    assert start(folder, TINY, tmp_path / "first.log").wait() == 0
    truth, results = scores(folder), folder / "results/quickstart"
    ballast = disk / "ballast"
    for number, (stage, (_, room)) in enumerate(LAST.items()):
        for names, _ in list(LAST.values())[number:]:
            for place in (results / name for name in names):
                shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        facts = os.statvfs(disk)
        ballast.write_bytes(bytes(facts.f_bavail * facts.f_bsize - 1024 * room))
        log = tmp_path / f"{stage}.log"
        run = start(folder, TINY, log)
        assert run.wait() != 0
        text = log.read_text()
        lines = [line for line in text.splitlines() if line.startswith("error: ")]
        print(f"{stage}, {room} kB left: exit {run.returncode}: {lines}")
        assert len(lines) == 1, text[-6000:]
        assert "No space left" in lines[0] or "cannot be written" in lines[0], lines
        assert "Traceback" not in text, text[-6000:]
        ballast.unlink()
        assert start(folder, TINY, log).wait() == 0, log.read_text()[-4000:]
        pd.testing.assert_frame_equal(scores(folder), truth)
        assert (results / "report.html").stat().st_size > 100_000
