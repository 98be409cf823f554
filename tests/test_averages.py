"""The GLUE averages, against the published rule spelled out by hand."""

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from small_experiment import RESAMPLES, N, World, draws, ends, guess, line

from lowrank_bench.errors import LowRankError
from lowrank_bench.score.averages import GLUE
from lowrank_bench.score.scores import ScoredCell

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
    interval = [row["drop_ci_low"], row["drop_ci_high"]]
    np.testing.assert_allclose(interval, ends(dense - lp), atol=1e-9)
    assert abs(np.corrcoef(drawn["rte"][1], drawn["sst2"][1])[0, 1]) < 4 / np.sqrt(RESAMPLES)


def test_the_p_value_of_an_average_swaps_its_tasks_independently():
    world = World("rte", "sst2", n=400)
    world.references["sst2", "validation"] = references = world.references["rte", "validation"]
    svd, lp = world.add("rte", "svd", noise=1.4), world.add("rte", "lp", noise=0.9)
    for cell in (svd, lp):  # identical cells: swapped together, they would double the variance
        world.cells.append(ScoredCell(cell.meta | {"task": "sst2"}, cell.predictions))
    gain = (guess(lp) == references) * 1.0 - (guess(svd) == references)
    variance = 2 * (gain**2).sum() / 400**2 / 4
    row = line(world.build(permutations=4999)[0], task="glue", method="lp")
    assert row["vs_svd"] == pytest.approx(100 * gain.mean())
    # The sum changes in steps of 2: half a step is the continuity correction.
    distance = abs(gain.mean()) - 1 / 800
    expected, together = (
        2 * scipy.stats.norm.sf(distance / np.sqrt(part)) for part in (variance, 2 * variance)
    )
    assert together - expected > 0.05
    assert row["vs_svd_p"] == pytest.approx(expected, abs=0.025)


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
    value = {method: by_hand(scores, method, eight) for method in ("dense", "svd")}
    assert row["note"] == "average over 8 tasks: without rte"
    assert row["dense_value"] == pytest.approx(value["dense"])
    assert row["vs_svd"] == pytest.approx(row["value"] - value["svd"])
    svd = next(c for c in cells if (c.meta["task"], c.meta["method"]) == ("qnli", "svd"))
    cells[cells.index(svd)] = ScoredCell(svd.meta, {}, "failed", "out of memory")
    row = line(glue_world.build()[0], task="glue", method="lp")
    assert np.isnan(row["vs_svd"])
    assert row["drop"] == pytest.approx(row["dense_value"] - row["value"])
    glue_world.cells = [c for c in cells if c.key(("task", "method")) != ("cola", "dense")]
    row = line(glue_world.build()[0], task="glue", method="lp")
    assert np.isnan(row["dense_value"])
    assert np.isnan(row["drop"])


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


def test_tasks_count_as_the_glue_task_that_they_name():
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


def test_unclear_tasks_of_glue_are_refused():
    world = World("cola", "quick_cola")
    world.tasks["quick_cola"]["glue"] = "cola"
    for name in world.tasks:
        world.add(name, "dense", 0.0)
    with pytest.raises(LowRankError, match="cola and quick_cola both stand for GLUE's cola"):
        world.build()
    world.tasks["quick_cola"]["glue"] = "sst3"
    with pytest.raises(LowRankError, match="'quick_cola': glue must be one of"):
        world.build()
