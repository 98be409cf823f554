"""Runs on a real SLURM: the same scores as a local run, and recovery of lost jobs.

`.ci/slurm` starts a SLURM cluster of two nodes on one machine.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import yaml

PROJECT = Path(__file__).parents[1]
FILES = ("Snakefile", "conf", "workflow", "profiles", "src", "environment.yml")
MEASURED = "created_at|git_commit|.*_seconds"
SMALL = [
    "model=[quick_bert]",
    "task=[quick_rte]",
    "method=[svd,lp]",
    "method.lp.grid.p=[1]",
    "compressions=[0.3,0.8]",
    "recipe.epochs=1",
    "model.quick_bert.recipe={epochs: 1}",
    "statistics.resamples=100",
    "jobs.methods_per_job=1",
]
SCORES = "results/quickstart/scores.parquet"
SUBMITTED = ["checkpoint", "evaluate", "evaluate", "factorize", "factorize", "score"]


def answers(*command):
    try:
        return subprocess.run(command, capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def slurm_says(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


needs_slurm = pytest.mark.skipif(
    not (answers("sinfo", "-h") and find_spec("snakemake_executor_plugin_slurm")),
    reason="needs a SLURM that answers and snakemake-executor-plugin-slurm",
)


def profile(name):
    return yaml.safe_load((PROJECT / "profiles" / name / "profile.yaml").read_text())


def test_the_profile_contains_the_settings_of_the_default_profile():
    assert profile("default").items() <= profile("slurm").items()


def start(folder, *words, settings=None):
    """Start a run up to the scores in a copy of the project."""
    for name in FILES:
        source = PROJECT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    settings = settings or ("--config", f"overrides={json.dumps(SMALL)}")
    path = {"PYTHONPATH": str(folder / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "snakemake", *words, *settings, "--", SCORES],
        cwd=folder,
        env=os.environ | path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(run):
    text = run.communicate(timeout=1500)[0]
    assert run.returncode == 0, text
    return text


def on_slurm(way):
    return (way, "profiles/slurm", "--slurm-init-seconds-before-status-checks", "2")


def scores(folder):
    table = pd.read_parquet(folder / SCORES)
    assert set(table["status"]) == {"ok"}
    return table.drop(columns=[name for name in table if re.fullmatch(MEASURED, name)])


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """Return the scores of the same experiment run locally."""
    folder = tmp_path_factory.mktemp("local")
    finish(start(folder, "--cores", "1"))
    return scores(folder)


def submitted(text):
    """Return the SLURM ids of the jobs that a run submitted individually."""
    return re.findall(r"has been submitted with SLURM jobid (\d+)", text)


@needs_slurm
def test_scores_equal_those_of_a_local_run_and_submissions_are_counted(tmp_path, truth):
    text = finish(start(tmp_path, *on_slurm("--workflow-profile")))
    pd.testing.assert_frame_equal(scores(tmp_path), truth)
    count = len(SUBMITTED)
    assert f"{count} jobs to submit, at most 100 at once and {3 * count} with all" in text
    assert len(submitted(text)) == count


@needs_slurm
def test_a_cancelled_array_task_is_retried_and_the_run_completes(tmp_path, truth):
    settings = tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump({"overrides": SMALL}))
    words = [*on_slurm("--profile"), "--slurm-array-jobs", "factorize,evaluate"]
    run = start(tmp_path, *words, settings=("--configfile", str(settings)))
    cancelled = []
    watcher = threading.Thread(target=cancel_one, args=(tmp_path, run, "factorize", cancelled))
    watcher.start()
    text = finish(run)
    watcher.join()
    assert cancelled
    assert "Trying to restart job" in text
    assert re.search("^Submitted array job .* task IDs are 1-2", text, re.M)
    pd.testing.assert_frame_equal(scores(tmp_path), truth)


def cancel_one(folder, run, rule, cancelled):
    """Cancel the first running job of a rule in a folder, with SLURM's own command."""
    while run.poll() is None:
        for line in slurm_says("squeue", "-h", "-r", "-t", "R", "-o", "%i|%Z|%k").splitlines():
            number, where, comment = line.split("|", 2)
            if Path(where) == folder and comment.startswith(f"rule_{rule}"):
                slurm_says("scancel", number)
                cancelled.append(number)
                return
        time.sleep(0.1)


@needs_slurm
def test_a_job_that_exceeds_its_memory_gets_more_and_the_run_completes(tmp_path, truth):
    config = slurm_says("scontrol", "show", "config")
    if "OverMemoryKill" not in config and "task/cgroup" not in config:
        pytest.skip("this SLURM lets jobs exceed their memory")
    scarce = json.dumps([*SMALL, "jobs.memory_mb=300"])
    run = start(tmp_path, *on_slurm("--profile"), settings=("--config", f"overrides={scarce}"))
    asked = {}
    while run.poll() is None and len(asked) < 2:  # --comment holds the rule, %m the memory
        for line in slurm_says("squeue", "-h", "--states=all", "-o", "%Z|%k|%m").splitlines():
            where, comment, memory = line.split("|")
            if Path(where) == tmp_path and comment.startswith("rule_checkpoint"):
                asked[memory] = True
        time.sleep(0.5)
    text = finish(run)
    assert list(asked)[:2] == ["300M", "600M"]
    assert "Trying to restart job" in text
    assert len(submitted(text)) > len(SUBMITTED)
    pd.testing.assert_frame_equal(scores(tmp_path), truth)


@needs_slurm
@pytest.mark.parametrize(
    ("words", "settings", "said"),
    [
        (("--jobs", "5"), ("--config", "seeds=[0]"), "need --jobs of at least the 6 jobs"),
        ((), ("--config", 'overrides=["seeds=[0]"]'), "break on the quotes"),
    ],
)
def test_arrays_that_could_not_work_are_refused_in_one_line(tmp_path, words, settings, said):
    quiet = tmp_path / "settings.yaml"
    quiet.write_text(yaml.safe_dump({"overrides": SMALL}))
    words = [*on_slurm("--profile"), "--slurm-array-jobs", "all", *words]
    settings = ("--configfile", str(quiet), *settings)
    text = start(tmp_path, *words, settings=settings).communicate(timeout=300)[0]
    assert said in text
    assert "has been submitted" not in text
    assert "Traceback" not in text
