"""The result tables of small experiments, against numbers computed independently."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import sklearn.metrics
from small_experiment import N, World, draws, ends, guess, line

from lowrank_bench.errors import LowRankError
from lowrank_bench.score.schema import SCORES, SUMMARY
from lowrank_bench.score.scores import ScoredCell


@pytest.fixture
def pair_world():
    world = World("mrpc")
    world.add("mrpc", "dense", 0.0, noise=0.4)
    world.add("mrpc", "svd", noise=1.5)
    world.add("mrpc", "lp", noise=0.7, params='{"p":1}')
    return world


def test_values_drops_and_intervals_of_one_task(pair_world):
    scores, _ = pair_world.build()
    dense, svd, lp = pair_world.cells
    references = pair_world.references["mrpc", "validation"]
    f1 = sklearn.metrics.f1_score
    row = line(scores, method="lp", metric="f1", task="mrpc")
    assert row["value"] == pytest.approx(100 * f1(references, guess(lp)))
    assert row["dense_value"] == pytest.approx(100 * f1(references, guess(dense)))
    assert row["drop"] == pytest.approx(row["dense_value"] - row["value"])
    assert row["vs_svd"] == pytest.approx(row["value"] - 100 * f1(references, guess(svd)))
    drawn = {
        name: draws(f1, references, guess(cell), "mrpc")
        for name, cell in (("dense", dense), ("svd", svd), ("lp", lp))
    }
    low_high = [("ci", drawn["lp"]), ("drop_ci", drawn["dense"] - drawn["lp"])]
    low_high.append(("vs_svd_ci", drawn["lp"] - drawn["svd"]))
    for name, expected in low_high:
        interval = [row[f"{name}_low"], row[f"{name}_high"]]
        np.testing.assert_allclose(interval, ends(expected), rtol=0, atol=1e-9)
    assert row["n_examples"] == N
    assert row["status"] == "ok"


def test_the_tables_have_the_schema_s_columns_and_survive_parquet(pair_world, tmp_path):
    scores, summary = pair_world.build()
    assert list(scores.columns) == list(SCORES)
    assert list(summary.columns) == list(SUMMARY)
    for name, table in (("scores", scores), ("summary", summary)):
        table.to_parquet(tmp_path / name)
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / name), table)
    assert set(scores["reason"]) == {""}
    assert scores["git_commit"].isna().all()


def test_dense_and_svd_are_not_compared_with_svd(pair_world):
    scores, _ = pair_world.build()
    columns = [name for name in SCORES if name.startswith("vs_svd")]
    alone = scores[scores["method"].isin(["dense", "svd"])]
    assert alone[columns].isna().all(axis=None)
    assert scores.loc[scores["method"] == "lp", columns].notna().all(axis=None)
    dense = scores[scores["method"] == "dense"]
    assert (dense[["drop", "drop_ci_low", "drop_ci_high"]] == 0).all(axis=None)


def test_a_cell_with_the_predictions_of_svd_does_not_differ_from_it(pair_world):
    svd = pair_world.cells[1]
    pair_world.cells.append(ScoredCell(svd.meta | {"method": "same"}, svd.predictions))
    scores, _ = pair_world.build()
    row = line(scores, method="same", metric="accuracy")
    assert row["vs_svd_p"] == 1
    assert row["vs_svd"] == row["vs_svd_ci_low"] == row["vs_svd_ci_high"] == 0


@pytest.mark.parametrize(
    "change",
    [{"compression": 0.4}, {"target": "linear"}, {"finetune_epochs": 2}, {"seed": 1}],
)
def test_cells_are_compared_only_with_svd_at_the_same_budget(pair_world, change):
    pair_world.cells[1] = ScoredCell(
        pair_world.cells[1].meta | change, pair_world.cells[1].predictions
    )
    scores, _ = pair_world.build()
    assert scores.loc[scores["method"] == "lp", "vs_svd"].isna().all()


def test_svd_with_parameters_is_compared_with_plain_svd(pair_world):
    pair_world.add("mrpc", "svd", params='{"center":true}')
    scores, _ = pair_world.build()
    compared = scores[(scores["method"] == "svd") & scores["vs_svd"].notna()]
    assert set(compared["params"]) == {'{"center":true}'}


def test_a_clear_gain_over_svd_is_significant_and_has_its_sign():
    world = World("cola", n=200)
    world.add("cola", "dense", 0.0, noise=0.1)
    world.add("cola", "svd", noise=5)
    world.add("cola", "lp", noise=0.3)
    row = line(world.build(permutations=199)[0], method="lp", task="cola")
    assert row["vs_svd"] > 20
    assert row["vs_svd_ci_low"] > 0
    assert row["vs_svd_p"] == 1 / 200


def test_rows_do_not_depend_on_what_else_is_scored(pair_world):
    before, _ = pair_world.build()
    pair_world.add("mrpc", "other", noise=0.2)
    after, _ = pair_world.build()
    pd.testing.assert_frame_equal(before, after[after["method"] != "other"].reset_index(drop=True))


def test_another_seed_draws_other_resamples(pair_world):
    first, second = pair_world.build()[0], pair_world.build(seed=1)[0]
    assert first["value"].equals(second["value"])
    assert not first["ci_low"].equals(second["ci_low"])


def test_regression_is_scored_in_points():
    world = World("stsb")
    cell = world.add("stsb", "dense", 0.0)
    references = world.references["stsb", "validation"]
    row = line(world.build()[0], metric="spearmanr")
    scores = cell.predictions["validation"][:, 0].astype(float)
    assert row["value"] == pytest.approx(100 * scipy.stats.spearmanr(references, scores).statistic)
    expected = draws(lambda y, x: scipy.stats.spearmanr(y, x).statistic, references, scores, "stsb")
    np.testing.assert_allclose([row["ci_low"], row["ci_high"]], ends(expected), atol=1e-9)


def test_a_failed_cell_has_a_row_for_each_of_its_metrics(pair_world):
    pair_world.add("mrpc", "messi", status="failed", reason="too few clusters")
    scores, summary = pair_world.build()
    rows = scores[(scores["method"] == "messi") & (scores["task"] == "mrpc")]
    assert list(rows["metric"]) == ["f1", "accuracy"]
    assert set(rows["status"]) == {"failed"}
    assert set(rows["reason"]) == {"too few clusters"}
    assert rows[["value", "drop", "ci_low", "vs_svd"]].isna().all(axis=None)
    mean = line(summary, method="messi", metric="f1")
    assert mean["n_seeds"] == 0
    assert mean["note"] == "0 of 1 seeds: seed 0 failed"


def spoil(logits):
    logits = logits.copy()
    logits[3, 0] = np.nan
    return logits


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        (lambda x: x[:-1], "failed", "are 59x2 not 60x2"),
        (lambda x: x[:, :1], "failed", "are 60x1 not 60x2"),
        (spoil, "failed", "1 of 60 predictions are not finite"),
        (None, "skipped", "no predictions for split validation"),
    ],
)
def test_predictions_that_cannot_be_scored_still_have_rows(pair_world, change, status, reason):
    predictions = pair_world.cells[2].predictions
    if change is None:
        predictions.clear()
    else:
        predictions["validation"] = change(predictions["validation"])
    row = line(pair_world.build()[0], method="lp", metric="f1")
    assert row["status"] == status
    assert reason in row["reason"]
    assert np.isnan(row["value"])


def test_a_missing_split_is_skipped_with_its_reason(pair_world):
    del pair_world.references["mrpc", "validation"]
    missing = {("mrpc", "validation"): "not on this mirror"}
    scores, _ = pair_world.build(missing=missing)
    rows = scores[scores["task"] == "mrpc"]
    assert len(rows) == 6
    assert set(rows["status"]) == {"skipped"}
    assert set(rows["reason"]) == {"not on this mirror"}
    assert set(pair_world.build()[0].query("task == 'mrpc'")["reason"]) == {
        "no labels for split validation"
    }


def test_hidden_labels_are_not_scored(pair_world):
    pair_world.references["mrpc", "validation"][:] = -1
    scores, _ = pair_world.build()
    assert set(scores["status"]) == {"skipped"}
    assert "hidden" in scores["reason"].iloc[0]


def test_without_a_dense_network_there_are_values_but_no_drops(pair_world):
    del pair_world.cells[0]
    scores, _ = pair_world.build()
    assert scores["value"].notna().all()
    assert scores[["dense_value", "drop", "drop_ci_low"]].isna().all(axis=None)


def test_the_summary_is_the_mean_over_seeds_on_the_same_resamples():
    world = World("sst2")
    references = world.references["sst2", "validation"]
    accuracy = sklearn.metrics.accuracy_score
    drops, drawn = [], []
    for seed in range(3):
        dense = world.add("sst2", "dense", 0.0, noise=0.3, seed=seed)
        lp = world.add("sst2", "lp", noise=0.5 + 0.3 * seed, seed=seed)
        drops.append(100 * (accuracy(references, guess(dense)) - accuracy(references, guess(lp))))
        pair = [draws(accuracy, references, guess(cell), "sst2") for cell in (dense, lp)]
        drawn.append(pair[0] - pair[1])
    row = line(world.build()[1], task="sst2", method="lp")
    assert row["n_seeds"] == 3
    assert row["drop"] == pytest.approx(np.mean(drops))
    assert row["drop_seed_std"] == pytest.approx(np.std(drops, ddof=1))
    interval = [row["drop_ci_low"], row["drop_ci_high"]]
    np.testing.assert_allclose(interval, ends(np.mean(drawn, axis=0)), atol=1e-9)


def test_the_summary_of_one_seed_repeats_the_scores(pair_world):
    scores, summary = pair_world.build()
    shared = [name for name in SUMMARY if name in SCORES]
    pd.testing.assert_frame_equal(scores[shared], summary[shared])
    assert summary["drop_seed_std"].isna().all()


def test_a_failed_seed_is_left_out_and_named():
    world = World("sst2")
    for seed in (0, 1):
        world.add("sst2", "dense", 0.0, noise=0.2, seed=seed)
    world.add("sst2", "lp", seed=0, note="subset")
    world.add("sst2", "lp", seed=1, status="failed", reason="diverged", note="subset")
    scores, summary = world.build()
    row = line(summary, task="sst2", method="lp")
    assert row["n_seeds"] == 1
    assert row["value"] == line(scores, task="sst2", method="lp", seed=0)["value"]
    assert row["note"] == "1 of 2 seeds: seed 1 failed; subset"


def test_unclear_experiments_are_refused(pair_world):
    pair_world.cells.append(pair_world.cells[2])
    with pytest.raises(LowRankError, match="given twice: model net · task mrpc · method lp"):
        pair_world.build()
    world = World("cola")
    world.add("cola", "dense", 0.0, task="quick_cola")
    with pytest.raises(LowRankError, match="task 'quick_cola' of a cell is not among: cola"):
        world.build()
    world = World("mnli")
    world.tasks["mnli"]["evaluation"][0]["metrics"] = ["f1"]
    with pytest.raises(LowRankError, match="'f1' needs two labels"):
        world.build()


def test_progress_is_reported_for_each_split(pair_world):
    told = []
    pair_world.build(progress=told.append)
    assert told == ["mrpc · validation: 3 cells"]
