"""The stage that measures compressed networks, its table, and the figure of the three costs."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_report import fake_scores

from lowrank_bench.artifact import save
from lowrank_bench.config import load_config
from lowrank_bench.errors import LowRankError
from lowrank_bench.evaluate.latency import COLUMNS
from lowrank_bench.plan.grid import make_plan
from lowrank_bench.report import costs
from lowrank_bench.report.costs import cost_curves, latency_table
from lowrank_bench.stages.evaluate import CheckpointEvaluator
from lowrank_bench.stages.latency import run_latency
from lowrank_bench.stages.runner import Runner
from lowrank_bench.stages.settings import Settings
from lowrank_bench.store.store import Store

CONF = Path(__file__).parents[1] / "conf"
SMALL = [
    "model=[quick_resnet,quick_bert]",
    "task=[digits,quick_wnli]",
    "method=[svd,pfp]",
    "task.digits.recipe.epochs=1",
    "task.digits.recipe.milestones=[1]",
    "task.digits.train.limit=100",
    "model.quick_bert.recipe.epochs=1",
    "compressions=[0.5,0.9999]",
    "calibration.rows=16",
    "latency={batches: [1,3], lengths: [8], repeats: 2, warm_up: 3, threads: 1}",
]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    config = load_config(CONF, [*SMALL, f"store={store}"])
    return config, run_latency(config, make_plan(config))


def test_every_network_is_measured_or_has_a_reason_why_not(measured):
    _, table = measured
    assert list(table.columns) == list(COLUMNS)
    # (svd, pfp on the CNN; svd on the transformer) × two rates × two batches
    assert len(table) == 12
    refused = table[table["compression"] == 0.9999]
    assert refused["ratio"].isna().all()
    assert (refused["reason"] != "").all()
    fine = table[table["compression"] == 0.5]
    assert (fine["reason"] == "").all()
    seconds = fine["dense_seconds"] / fine["compressed_seconds"]
    np.testing.assert_allclose(fine["ratio"], seconds)
    assert set(fine.loc[fine["model"] == "quick_bert", "length"]) == {8}
    assert set(fine.loc[fine["model"] == "quick_resnet", "length"]) == {0}


def test_bytes_on_disk_are_those_that_save_writes(measured, tmp_path):
    config, table = measured
    cells = (cell for job in make_plan(config).evaluate for cell in job.cells())
    cell = next(c for c in cells if c.spec.method == "pfp" and c.compression == 0.5)
    evaluator = CheckpointEvaluator(
        cell.checkpoint, Runner(Store(config.store), Settings(device="cpu"))
    )
    save(evaluator.model, tmp_path / "dense")
    save(evaluator.network(cell)[0], tmp_path / "small")
    dense, small = (
        sum(file.stat().st_size for file in (tmp_path / name).rglob("*") if file.is_file())
        for name in ("dense", "small")
    )
    rows = table[(table["label"] == cell.spec.label) & (table["compression"] == 0.5)]
    np.testing.assert_allclose(rows["file_ratio"], dense / small, rtol=1e-3)


def test_nothing_is_measured_by_default_and_invalid_settings_are_refused():
    assert load_config(CONF).latency.batches == []
    with pytest.raises(LowRankError, match=r"latency\.warm_up"):
        load_config(CONF, ["latency.warm_up=1"])


def fake_latency(scores):
    rows = []
    cells = scores[scores["method"] != "dense"].drop_duplicates(["model", "label", "compression"])
    for number, row in enumerate(cells.itertuples()):
        for batch in (16, 2):
            known = {"model": row.model, "label": row.label, "target": "embedding"}
            known |= {"compression": row.compression, "batch": batch, "length": 8}
            known |= {"ratio": 1 + number / 100 + batch, "median_ratio": 1.0}
            rows.append(known | {"clock": "wall seconds", "threads": 2, "device": "cpu"})
    return pd.DataFrame(rows, columns=list(COLUMNS)).assign(reason="", load=9.0)


def test_panels_show_mean_drops_against_shares_and_the_largest_batch(tmp_path, monkeypatch):
    scores = fake_scores(models=("net",))
    scores["parameters_dense"], scores["parameters_kept"] = 200.0, 200 * (1 - scores["compression"])
    latency = fake_latency(scores)
    caught = []
    monkeypatch.setattr(costs, "save", lambda figure, stem: caught.append(figure) or [])
    cost_curves(scores, latency, tmp_path / "costs")
    parameters, macs, speed = caught[0].axes
    assert "no multiply-adds" in " ".join(text.get_text() for text in macs.texts).replace("\n", " ")
    headline = {"cola": "matthews_correlation", "mrpc": "f1", "wnli": "accuracy"}
    shown = scores[scores["task"].map(headline) == scores["metric"]]
    lines = {tuple(np.round(line.get_ydata(), 6)): line for line in parameters.get_lines()}
    for label in ("svd", "lp (p=1.5)"):
        drops = shown[shown["label"] == label].groupby("compression")["drop"].mean()
        line = lines[tuple(np.round(drops.to_numpy(), 6))]
        np.testing.assert_allclose(line.get_xdata(), 100 * drops.index.to_numpy())
        wanted = latency[(latency["label"] == label) & (latency["batch"] == 16)]
        drawn = {tuple(np.round(x.get_ydata(), 6)): x.get_xdata() for x in speed.get_lines()}
        np.testing.assert_allclose(drawn[tuple(np.round(drops.to_numpy(), 6))], wanted["ratio"])


def test_the_table_says_what_was_counted_and_that_the_machine_was_busy():
    table = latency_table(fake_latency(fake_scores(models=("net",))))
    assert "wall seconds" in table.caption
    assert "load average reached 9.0" in table.notes[0]
    assert len(table.sections["net"]) == 2 * 3 * 5
