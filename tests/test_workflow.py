"""The workflow itself: dry runs, incremental reruns, resuming, and the errors of wrong calls."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

PROJECT = Path(__file__).parents[1]
FILES = ("Snakefile", "conf", "workflow", "profiles", "src", "environment.yml")
TINY = [
    "model=[quick_bert]",
    "task=[quick_rte,quick_wnli]",
    "method.lp.grid.p=[1]",
    "method=[svd,lp]",
    "compressions=[0.3,0.8]",
    "recipe.epochs=1",
    "model.quick_bert.recipe={epochs: 1}",
    "statistics.resamples=100",
    "jobs.methods_per_job=1",
]
TOGETHER = "jobs.methods_per_job=3"  # for tests that ask nothing of single jobs: fewer processes


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Return a copy of the project's files that can be run and edited."""
    folder = tmp_path_factory.mktemp("project")
    for name in FILES:
        source = PROJECT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name)
    return folder


def command(*words, overrides=TINY):
    settings = ["--config", f"overrides={json.dumps(list(overrides))}"] if overrides else []
    return [sys.executable, "-m", "snakemake", "--cores", "2", *words, *settings]


def environment(folder):
    # Nobody else uses the copy, so compiled modules may stay in it; twenty processes compile them.
    return os.environ | {"PYTHONPATH": str(folder / "src"), "PYTHONDONTWRITEBYTECODE": ""}


def snakemake(folder, *words, overrides=TINY, ok=True):
    done = subprocess.run(
        command(*words, overrides=overrides),
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=600,
    )
    text = done.stdout + done.stderr
    assert (done.returncode == 0) == ok, text
    return text


def computed(text):
    """Return how many cells a run's evaluate jobs computed and reused."""
    pairs = re.findall(r"^\[evaluate\] \S+: (\d+) cells computed, (\d+) reused", text, re.M)
    return sum(int(a) for a, _ in pairs), sum(int(b) for _, b in pairs)


def scores(folder):
    return pd.read_parquet(folder / "results/quickstart/scores.parquet")


SCORES = "results/quickstart/scores.parquet"  # without tables, figures and report: half the time
MEASURED = ["created_at", "evaluate_seconds", "factorize_seconds", "git_commit"]


@pytest.fixture(scope="module")
def finished(project):
    """Return the project after one complete run of the tiny experiment."""
    text = snakemake(project)
    assert computed(text) == (8, 0)
    return project


def test_a_run_ends_in_scores_tables_figures_and_a_report(finished):
    table = scores(finished)
    cells = table[(table["task"] != "glue") & (table["method"] != "dense")]
    cells = cells[cells["metric"] != "average"]
    assert len(cells) == 8
    assert set(table["status"]) == {"ok"}
    assert table["note"].str.contains("synthetic").all()
    folder = finished / "results/quickstart"
    assert (folder / "report.html").stat().st_size > 100_000
    assert (folder / "figures/drop_quick_bert.pdf").is_file()
    assert (folder / "tables/drop.tex").is_file()
    kept = cells["parameters_kept"] / cells["parameters_dense"]
    assert (kept <= 1 - cells["compression"]).all()
    assert cells["achieved_compression"].sub(1 - kept).abs().max() < 1e-12


def test_a_second_run_has_nothing_to_do(finished):
    assert "Nothing to be done" in snakemake(finished)


def test_touching_every_file_reruns_nothing(finished):
    for file in finished.rglob("*"):
        if file.is_file() and ".snakemake" not in file.parts:
            file.touch()
    assert "Nothing to be done" in snakemake(finished)


def test_a_fresh_clone_with_the_same_store_computes_nothing(finished, tmp_path):
    for name in FILES:
        source = finished / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    shutil.copytree(finished / "results/store", tmp_path / "results/store")
    assert computed(snakemake(tmp_path, SCORES)) == (0, 8)
    left, right = scores(tmp_path), scores(finished)
    same = left.merge(right.drop(columns=MEASURED), how="inner")
    assert len(same) == len(left)


def test_editing_a_method_reruns_only_that_method(finished):
    file = finished / "src/lowrank_bench/methods/lp.py"
    text = file.read_text()
    file.write_text(text + "\nUNUSED = 1\n")
    try:
        listed = snakemake(finished, "--dry-run", "--quiet", "host")
        names = re.findall(r"(?:checkpoint|factorize|evaluate) (\S+\.[0-9a-f]{8})$", listed, re.M)
        assert len(names) == 2
        assert all(".lp." in name for name in names)
    finally:
        file.write_text(text)


def test_a_truncated_cell_is_computed_again_with_a_warning(finished):
    plan = json.loads((finished / "results/quickstart/plan.json").read_text())
    key = plan["keys"]["evaluate"][0]
    victim = finished / f"results/store/cell/{key[:2]}/{key}.safetensors"
    before = scores(finished)
    victim.write_bytes(victim.read_bytes()[:50])
    text = snakemake(finished, SCORES, "--forcerun", "score")
    assert "warning" in text
    assert victim.name in text
    assert victim.stat().st_size > 50
    pd.testing.assert_frame_equal(
        scores(finished).drop(columns=MEASURED), before.drop(columns=MEASURED)
    )
    assert "Nothing to be done" in snakemake(finished, SCORES, "--dry-run")
    victim.unlink()  # as `lowrank store verify` removes a damaged one
    text = snakemake(finished, "--dry-run")
    assert "1 jobs are open again" in text
    stages = "download|checkpoint|factorize|evaluate|score"
    listed = dict(re.findall(rf"^({stages}) +(\d+)$", text, re.M))
    assert listed == {"evaluate": "1", "score": "1"}


def test_a_killed_run_resumes_and_ends_with_identical_scores(finished):
    shutil.rmtree(finished / "results/store/cell")
    shutil.move(finished / "results/quickstart", finished / "results/before")
    run = subprocess.Popen(
        command(),
        cwd=finished,
        env=environment(finished),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while len(list((finished / "results").glob("store/cell/*/*.safetensors"))) < 4:
        assert run.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    done = len(list((finished / "results").glob("store/cell/*/*.safetensors"))) - 2
    fresh, reused = computed(snakemake(finished, SCORES))
    assert fresh <= 8 - done
    assert fresh + reused == 8
    before = pd.read_parquet(finished / "results/before/scores.parquet")
    pd.testing.assert_frame_equal(
        scores(finished).drop(columns=MEASURED), before.drop(columns=MEASURED)
    )


def test_one_more_rate_computes_only_its_cells(finished):
    more = [*TINY, TOGETHER, "compressions=[0.3,0.5,0.8]"]
    text = snakemake(finished, SCORES, overrides=more)
    assert computed(text) == (4, 8)


def test_a_changed_setting_and_a_new_rate_together_reach_the_scores(finished):
    more = [*TINY, TOGETHER, "compressions=[0.3,0.45]", "hub.unofficial=true"]
    more += ["evaluation.max_tokens=2048"]
    assert computed(snakemake(finished, SCORES, overrides=more)) == (4, 4)
    assert set(scores(finished)["compression"]) == {0, 0.3, 0.45}


def test_cells_that_fail_are_rows_and_the_run_ends_with_an_error(finished):
    spoiled = [*TINY, TOGETHER, "compressions=[0.3,0.9999]"]
    text = snakemake(finished, overrides=spoiled, ok=False)
    lines = [line for line in text.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert "leaves no rank" in lines[0]
    table = scores(finished)
    assert set(table.loc[table["compression"] == 0.9999, "status"]) >= {"failed"}
    again = snakemake(finished, "--dry-run", overrides=spoiled)
    assert "4 pieces of work failed in an earlier run" in again


def test_a_checkpoint_that_cannot_be_made_leaves_rows_and_does_not_stop_the_others(finished):
    spoiled = "task.quick_wnli.recipe={learning_rate: 1.0e+30, max_grad_norm: 1.0e+30}"
    text = snakemake(finished, SCORES, overrides=[*TINY, TOGETHER, spoiled], ok=False)
    assert "diverged" in text
    assert "Traceback" not in text
    table = scores(finished)
    lost = table["task"] == "quick_wnli"
    assert set(table.loc[lost, "status"]) == {"failed"}
    assert table.loc[lost, "reason"].str.contains("diverged").all()
    assert lost.sum() == 5
    assert set(table.loc[table["task"] == "quick_rte", "status"]) == {"ok"}


PLUGIN = """
from typing import ClassVar

from lowrank_bench.methods.base import MatrixMethod


class Halved(MatrixMethod):
    name: ClassVar[str] = "halved"
    title: ClassVar[str] = "Columns in pairs"
    source: ClassVar[str] = "a test"

    def decompose(self, problem):
        import torch

        from lowrank_bench.linalg.decomposition import Projection

        return Projection(problem.matrix, torch.eye(problem.matrix.shape[1]).double())
"""


def test_a_method_of_a_folder_outside_runs_like_one_of_ours(finished, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "halved.py").write_text(PLUGIN)
    methods = ["method=[svd,lp]", "+method.halved={name: halved}"]
    more = [*(o for o in TINY if o not in methods), *methods, f"plugins=[{folder}]"]
    targets = [SCORES, "results/quickstart/tables/drop.md"]
    assert computed(snakemake(finished, *targets, overrides=more)) == (4, 8)
    table = scores(finished)
    assert set(table.loc[table["method"] == "halved", "status"]) == {"ok"}
    drops = (finished / "results/quickstart/tables/drop.md").read_text()
    assert "halved" in drops
    (folder / "halved.py").write_text(PLUGIN.replace("torch.eye(", "1 * torch.eye("))
    listed = snakemake(finished, "--dry-run", "--quiet", "host", overrides=more)
    names = re.findall(r"(?:checkpoint|factorize|evaluate) (\S+\.[0-9a-f]{8})$", listed, re.M)
    assert len(names) == 2
    assert all(".halved." in name for name in names)


def test_training_after_compression_and_winners_on_half_of_the_data(finished):
    more = ["name=after", "task=[quick_rte]", "method=[svd,messi]", "method.messi.grid.k=[2,3]"]
    more += ["compressions=[0.8]", "finetune_epochs=[0,1]", "statistics.halves=true"]
    more += ["evaluation.train_rows=50", "select={messi: k}", TOGETHER]
    folder = finished / "results/after"
    targets = [f"results/after/{name}" for name in ("scores.parquet", "tables/winners_by_data.md")]
    settings = [*(o for o in TINY if "method" not in o), *more]
    snakemake(finished, *targets, overrides=settings)
    found = pd.read_parquet(folder / "scores.parquet")
    found = found[found["task"] == "quick_rte"]
    assert set(found["status"]) == {"ok"}
    series = found.groupby("finetune_epochs")["label"].apply(sorted).to_dict()
    methods = [f"messi ({k}, steps=10)" for k in ("k chosen", "k=2", "k=3")] + ["svd"]
    assert series == {0: ["dense", *methods], 1: ["dense", *methods]}
    trained = found[found["finetune_epochs"] == 1].set_index("label")
    assert (trained["finetune_seconds"] > 0).all()
    at_once = found[found["finetune_epochs"] == 0].set_index("label")
    assert trained.loc["svd", "value"] > at_once.loc["svd", "value"]
    chosen = trained.loc["messi (k chosen, steps=10)", "value"]
    assert chosen in {trained.loc[f"messi (k={k}, steps=10)", "value"] for k in (2, 3)}
    assert "data-free" in (folder / "tables/winners_by_data.md").read_text()


def test_a_large_grid_has_few_jobs_and_a_quick_dry_run(project):
    grid = [
        "experiment=robust_svd",
        "method.lp.grid.p=[1,1.2,1.4,1.6,1.8]",
    ]
    text = snakemake(project, "--dry-run", "--quiet", "rules", overrides=grid)
    total = int(re.findall(r"^total\s+(\d+)", text, re.M)[-1])
    assert total < 400


def test_six_separate_methods_stay_below_400_jobs(project):
    for number in range(5):
        text = f"# @package method.m{number}\nname: lp\nparams: {{p: {1 + number / 5}}}\n"
        (project / f"conf/method/m{number}.yaml").write_text(text)
    grid = ["experiment=robust_svd", "method=[svd,m0,m1,m2,m3,m4]"]
    text = snakemake(project, "--dry-run", "--quiet", "rules", overrides=grid)
    assert int(re.findall(r"^total\s+(\d+)", text, re.M)[-1]) < 400


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["experiment=nowhere"], "unknown experiment 'nowhere'"),
        (["method.lp.grid.p=[0.5]"], "from 1 to 16, or inf"),
        (["compresions=[0.5]"], "did you mean 'compressions'"),
    ],
)
def test_a_wrong_call_fails_with_one_clear_line(project, overrides, said):
    text = snakemake(project, "--dry-run", overrides=overrides, ok=False)
    assert said in text
    assert "Traceback" not in text


def test_the_grid_imports_no_torch():
    code = "import lowrank_bench.plan.grid, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
