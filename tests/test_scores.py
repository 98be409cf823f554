"""The result tables of small experiments, against numbers worked out apart."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import sklearn.metrics

from lowrank_bench.errors import LowRankError
from lowrank_bench.score.averages import GLUE
from lowrank_bench.score.draws import generator, resample_blocks
from lowrank_bench.score.schema import SCORES, SUMMARY
from lowrank_bench.score.scores import ScoredCell, build_scores

N = 60
RESAMPLES = 80
METRICS_OF = {
    "cola": ["matthews_correlation"],
    "mrpc": ["f1", "accuracy"],
    "qqp": ["f1", "accuracy"],
    "stsb": ["pearson", "spearmanr"],
}


def task(name, splits=("validation",), glue=None):
    labels = {"stsb": [], "mnli": ["yes", "maybe", "no"]}.get(name, ["no", "yes"])
    metrics = METRICS_OF.get(name, ["accuracy"])
    parts = [{"split": split, "metrics": metrics} for split in splits]
    return {"labels": labels, "evaluation": parts} | ({"glue": glue} if glue else {})


class World:
    """An experiment with random labels and predictions."""

    def __init__(self, *tasks, splits=None, n=N):
        self.rng = np.random.default_rng(7)
        splits = splits or {}
        self.tasks = {name: task(name, splits.get(name, ("validation",))) for name in tasks}
        self.cells = []
        self.references = {}
        for name, entry in self.tasks.items():
            for part in entry["evaluation"]:
                count = len(entry["labels"])
                drawn = self.rng.integers(count, size=n) if count else 5 * self.rng.random(n)
                self.references[name, part["split"]] = drawn

    def logits(self, name, split, noise=1.0):
        references = self.references[name, split]
        count = len(self.tasks[name]["labels"])
        signal = np.eye(count)[references] if count else references[:, None]
        return (signal + noise * self.rng.normal(size=signal.shape)).astype(np.float32)

    def add(self, name, method, compression=0.5, noise=1.0, **changes):
        splits = [part["split"] for part in self.tasks[name]["evaluation"]]
        predictions = {split: self.logits(name, split, noise) for split in splits}
        own = {key: changes.pop(key) for key in ("status", "reason") if key in changes}
        meta = {
            "experiment": "small",
            "model": "net",
            "task": name,
            "method": method,
            "params": "{}",
            "label": method,
            "target": "embedding",
            "compression": compression,
            "achieved_compression": compression + 0.01 * bool(compression),
            "seed": 0,
            "finetune_epochs": 0,
        }
        self.cells.append(ScoredCell(meta | changes, predictions, **own))
        return self.cells[-1]

    def build(self, **options):
        return build_scores(self.cells, self.tasks, self.references, resamples=RESAMPLES, **options)


def line(table, **wanted):
    """Return the one row that agrees with `wanted`."""
    for name, value in wanted.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


def guess(cell, split="validation"):
    return cell.predictions[split].argmax(axis=1)


def draws(function, references, scores, name, split="validation", seed=0):
    """Return a metric on the resamples of a split, one explicit resample after another."""
    n = len(references)
    (block,) = resample_blocks(n, RESAMPLES, generator(seed, "bootstrap", name, split))
    drawn = [np.repeat(np.arange(n), row.astype(int)) for row in block]
    return np.array([function(references[rows], scores[rows]) for rows in drawn])


def ends(values):
    return np.percentile(100 * values, [2.5, 97.5])


@pytest.fixture
def pair_world():
    world = World("mrpc")
    world.add("mrpc", "dense", 0.0, noise=0.4)
    world.add("mrpc", "svd", noise=1.5)
    world.add("mrpc", "lp", noise=0.7, params='{"p":1}')
    return world


def test_values_drops_and_intervals_of_a_task(pair_world):
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
        found = [row[f"{name}_low"], row[f"{name}_high"]]
        np.testing.assert_allclose(found, ends(expected), rtol=0, atol=1e-9)
    assert row["n_examples"] == N
    assert row["status"] == "ok"


def test_the_tables_have_the_columns_of_the_schema_and_survive_parquet(pair_world, tmp_path):
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


def test_a_cell_that_predicts_as_svd_does_not_differ_from_it(pair_world):
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
def test_only_svd_at_the_same_budget_is_compared_with(pair_world, change):
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


def test_the_seed_draws_other_resamples(pair_world):
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
def test_predictions_that_cannot_be_scored_are_rows(pair_world, change, status, reason):
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
    own = scores[scores["task"] == "mrpc"]
    assert len(own) == 6
    assert set(own["status"]) == {"skipped"}
    assert set(own["reason"]) == {"not on this mirror"}
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


MNLI = {"mnli": ("validation_matched", "validation_mismatched")}


@pytest.fixture
def glue_world():
    world = World(*GLUE, splits=MNLI)
    for name in GLUE:
        world.add(name, "dense", 0.0, noise=0.3)
        world.add(name, "svd", noise=1.2)
        world.add(name, "lp", noise=0.8)
    return world


def by_hand(scores, method, tasks):
    """Return the average from the published rule, spelled out task by task."""
    value = {
        (row["task"], row["split"], row["metric"]): row["value"]
        for _, row in scores[scores["method"] == method].iterrows()
    }
    plain = "validation"
    of = {name: value.get((name, plain, "accuracy")) for name in ("sst2", "qnli", "rte", "wnli")}
    of["cola"] = value["cola", plain, "matthews_correlation"]
    for name in ("mrpc", "qqp"):
        of[name] = (value[name, plain, "f1"] + value[name, plain, "accuracy"]) / 2
    of["stsb"] = (value["stsb", plain, "pearson"] + value["stsb", plain, "spearmanr"]) / 2
    both = [value["mnli", split, "accuracy"] for split in MNLI["mnli"]]
    of["mnli"] = sum(both) / 2
    return sum(of[name] for name in tasks) / len(tasks)


def test_the_glue_average_is_the_mean_of_task_scores(glue_world):
    scores, _ = glue_world.build()
    for name, tasks in (("glue", GLUE), ("glue_no_wnli", GLUE[:-1])):
        row = line(scores, task=name, method="lp")
        expected = {method: by_hand(scores, method, tasks) for method in ("dense", "svd", "lp")}
        assert row["value"] == pytest.approx(expected["lp"])
        assert row["dense_value"] == pytest.approx(expected["dense"])
        assert row["drop"] == pytest.approx(expected["dense"] - expected["lp"])
        assert row["vs_svd"] == pytest.approx(expected["lp"] - expected["svd"])
        assert (row["metric"], row["split"], row["note"]) == ("average", "", "")
        assert row["n_examples"] == N * (len(tasks) + 1)
        assert row["achieved_compression"] == pytest.approx(0.51)


def test_the_interval_of_an_average_resamples_its_tasks_independently():
    world = World("rte", "sst2")
    drawn = {}
    for name in world.tasks:
        references = world.references[name, "validation"]
        dense, lp = world.add(name, "dense", 0.0, noise=0.3), world.add(name, "lp")
        drawn[name] = [
            draws(sklearn.metrics.accuracy_score, references, guess(cell), name)
            for cell in (dense, lp)
        ]
    row = line(world.build()[0], task="glue", method="lp")
    dense, lp = np.mean(list(drawn.values()), axis=0)
    np.testing.assert_allclose([row["ci_low"], row["ci_high"]], ends(lp), atol=1e-9)
    found = [row["drop_ci_low"], row["drop_ci_high"]]
    np.testing.assert_allclose(found, ends(dense - lp), atol=1e-9)
    assert abs(np.corrcoef(drawn["rte"][0], drawn["sst2"][0])[0, 1]) < 4 / np.sqrt(RESAMPLES)


def test_the_p_value_of_an_average_matches_the_normal_limit():
    world = World("rte", "sst2", n=400)
    variance, difference = 0.0, 0.0
    for name in world.tasks:
        references = world.references[name, "validation"]
        svd, lp = world.add(name, "svd", noise=1.3), world.add(name, "lp", noise=1.05)
        gain = (guess(lp) == references) * 1.0 - (guess(svd) == references)
        difference += gain.mean() / 2
        variance += (gain**2).sum() / 400**2 / 4
    row = line(world.build(permutations=4999)[0], task="glue", method="lp")
    assert row["vs_svd"] == pytest.approx(100 * difference)
    expected = 2 * scipy.stats.norm.sf(abs(difference) / np.sqrt(variance))
    assert 0.001 < expected < 0.5
    assert row["vs_svd_p"] == pytest.approx(expected, abs=0.03)


def test_an_average_over_fewer_tasks_says_so(glue_world):
    cells = glue_world.cells
    glue_world.cells = [cell for cell in cells if cell.meta["task"] not in ("mnli", "qqp")]
    del glue_world.tasks["mnli"]
    scores, summary = glue_world.build()
    kept = [name for name in GLUE if name not in ("mnli", "qqp")]
    for table in (scores, summary):
        row = line(table, task="glue", method="lp")
        assert row["note"] == "average over 7 tasks: without qqp, mnli"
    values = scores[(scores["method"] == "lp") & scores["task"].isin(kept)]
    expected = values.groupby("task")["value"].mean().mean()
    assert line(scores, task="glue", method="lp")["value"] == pytest.approx(expected)


def test_an_average_is_compared_over_the_same_tasks_or_not_at_all(glue_world):
    cells = glue_world.cells
    lost = next(c for c in cells if (c.meta["task"], c.meta["method"]) == ("rte", "lp"))
    cells[cells.index(lost)] = ScoredCell(lost.meta, {}, "failed", "out of memory")
    scores, _ = glue_world.build()
    row = line(scores, task="glue", method="lp")
    eight = [name for name in GLUE if name != "rte"]
    value = {"rte": np.nan}
    for method in ("dense", "svd"):
        value[method] = by_hand(scores, method, eight)
    assert row["note"] == "average over 8 tasks: without rte"
    assert row["dense_value"] == pytest.approx(value["dense"])
    assert row["vs_svd"] == pytest.approx(row["value"] - value["svd"])
    svd = next(c for c in cells if (c.meta["task"], c.meta["method"]) == ("qnli", "svd"))
    cells[cells.index(svd)] = ScoredCell(svd.meta, {}, "failed", "out of memory")
    row = line(glue_world.build()[0], task="glue", method="lp")
    assert np.isnan(row["vs_svd"])
    assert row["drop"] == pytest.approx(row["dense_value"] - row["value"])


def test_an_average_names_a_split_that_it_lacks(glue_world):
    del glue_world.references["mnli", "validation_mismatched"]
    scores, _ = glue_world.build()
    row = line(scores, task="glue", method="lp")
    assert row["note"] == "mnli without validation_mismatched"
    matched = line(scores, task="mnli", split="validation_matched", method="lp")["value"]
    rest = by_hand(scores, "lp", [name for name in GLUE if name != "mnli"])
    assert row["value"] == pytest.approx((8 * rest + matched) / 9)


def test_an_average_without_any_task_is_a_row_with_a_reason():
    world = World("wnli", "cola")
    world.add("wnli", "dense", 0.0)
    world.add("cola", "dense", 0.0, status="failed", reason="broken")
    scores, _ = world.build()
    assert line(scores, task="glue")["status"] == "ok"
    row = line(scores, task="glue_no_wnli")
    assert (row["status"], row["reason"]) == ("failed", "no task of the average could be scored")


def test_tasks_stand_for_the_glue_task_that_they_name():
    world = World("quick_cola", "rte", "digits")
    world.tasks["quick_cola"]["glue"] = "cola"
    for name in world.tasks:
        world.add(name, "dense", 0.0, note="synthetic" if name == "quick_cola" else "")
    scores, _ = world.build()
    row = line(scores, task="glue")
    two = scores[scores["task"].isin(["quick_cola", "rte"])]
    assert row["value"] == pytest.approx(two["value"].mean())
    lacking = ", ".join(name for name in GLUE if name not in ("cola", "rte"))
    assert row["note"] == f"average over 2 tasks: without {lacking}; cola: synthetic"


def test_without_a_task_of_glue_there_is_no_average():
    world = World("digits")
    world.add("digits", "dense", 0.0)
    assert set(world.build()[0]["task"]) == {"digits"}


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
    found = [row["drop_ci_low"], row["drop_ci_high"]]
    np.testing.assert_allclose(found, ends(np.mean(drawn, axis=0)), atol=1e-9)


def test_the_summary_of_one_seed_repeats_the_scores(pair_world):
    scores, summary = pair_world.build()
    shared = [name for name in SUMMARY if name in SCORES]
    pd.testing.assert_frame_equal(scores[shared], summary[shared])
    assert summary["drop_seed_std"].isna().all()


def test_a_seed_that_failed_is_left_out_and_named():
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
    world = World("cola", "quick_cola")
    world.tasks["quick_cola"]["glue"] = "cola"
    for name in world.tasks:
        world.add(name, "dense", 0.0)
    with pytest.raises(LowRankError, match="cola and quick_cola both stand for GLUE's cola"):
        world.build()
    world.tasks["quick_cola"]["glue"] = "sst3"
    with pytest.raises(LowRankError, match="'quick_cola': glue must be one of"):
        world.build()
    del world.tasks["quick_cola"]
    with pytest.raises(LowRankError, match="task 'quick_cola' of a cell is not among: cola"):
        world.build()
    world = World("mnli")
    world.tasks["mnli"]["evaluation"][0]["metrics"] = ["f1"]
    with pytest.raises(LowRankError, match="'f1' needs two labels"):
        world.build()


def test_progress_is_told_each_split(pair_world):
    told = []
    pair_world.build(progress=told.append)
    assert told == ["mrpc · validation: 3 cells"]
