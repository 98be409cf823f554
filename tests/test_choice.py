"""Choosing a parameter by training rows, and a method on half of the data."""

import json

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
from small_experiment import RESAMPLES, World, guess

from lowrank_bench.report.winners import data_access, winners_table
from lowrank_bench.score.chosen import chosen_by_training
from lowrank_bench.score.halves import score_halves

TRAIN = "train[:40]"


@pytest.fixture
def world():
    world = World("sst2", "rte", n=41)
    for name in ("sst2", "rte"):
        world.references[name, TRAIN] = world.rng.integers(2, size=40)
        world.add(name, "dense", 0.0, noise=0.1, data_used="weights")
        world.add(name, "svd", noise=2.0, data_used="weights")
        for k, noise in ((2, 1.5), (3, 0.3), (4, 2.5)):
            words = {"label": f"messi (k={k}, q=2)", "data_used": "weights"}
            world.add(name, "messi", params=json.dumps({"k": k, "q": 2}), **words)
            signal = np.eye(2)[world.references[name, TRAIN]]
            drawn = signal + noise * world.rng.normal(size=signal.shape)
            world.cells[-1].predictions[TRAIN] = drawn.astype(np.float32)
    return world


def test_the_best_value_on_the_training_rows_is_chosen(world):
    chosen = chosen_by_training(world.cells, world.references, world.tasks, "messi", "k")
    assert [cell.meta["task"] for cell in chosen] == ["sst2", "rte"]
    for cell in chosen:
        assert json.loads(cell.meta["params"]) == {"k": "chosen", "q": 2}
        assert cell.meta["label"] == "messi (k chosen, q=2)"
        cells = [c for c in world.cells if c.meta["task"] == cell.meta["task"]]
        rivals = [c for c in cells if c.meta["method"] == "messi"]
        labels = world.references[cell.meta["task"], TRAIN]
        accuracy = [sklearn.metrics.accuracy_score(labels, guess(c, TRAIN)) for c in rivals]
        best = rivals[int(np.argmax(accuracy))]
        assert json.loads(best.meta["params"])["k"] == 3
        assert cell.predictions is best.predictions


def test_chosen_cells_are_scored_like_any_other(world):
    world.cells += chosen_by_training(world.cells, world.references, world.tasks, "messi", "k")
    scores, _ = world.build()
    rows = scores[(scores["task"] == "rte") & (scores["method"] == "messi")]
    assert len(rows) == 4
    chosen = rows[rows["label"] == "messi (k chosen, q=2)"].iloc[0]
    third = rows[rows["params"] == json.dumps({"k": 3, "q": 2})].iloc[0]
    assert chosen["value"] == third["value"]
    assert chosen["vs_svd_p"] == third["vs_svd_p"]


def test_halves_share_no_row_and_leave_none_out(world):
    tables, scores = score_halves(world.cells, world.tasks, world.references, resamples=RESAMPLES)
    sizes = tables.groupby("half")["n_examples"].first()
    assert sizes.to_dict() == {"selection": 40, "confirmation": 42}  # 20 and 21 of each task
    order = np.random.default_rng(0).permutation(41)
    for half, rows in (("selection", order[:20]), ("confirmation", order[20:])):
        for method in ("svd", "dense"):
            cells = [c for c in world.cells if c.meta["method"] == method]
            expected = np.mean(
                [
                    sklearn.metrics.accuracy_score(
                        world.references[c.meta["task"], "validation"][rows], guess(c)[rows]
                    )
                    for c in cells
                ]
            )
            line = tables[(tables["half"] == half) & (tables["method"] == method)].iloc[0]
            assert line["value"] == pytest.approx(100 * expected)
            part = scores[(scores["split"] == half) & (scores["method"] == method)]
            part = part[part["task"].isin(world.tasks)]
            assert part["value"].mean() == pytest.approx(100 * expected)


def test_the_winner_is_chosen_on_the_selection_half_alone():
    def row(label, used, half, drop):
        place = {"model": "net", "task": "glue", "metric": "average", "method": label}
        numbers = {"drop": drop, "drop_ci_low": drop - 1, "drop_ci_high": drop + 1}
        words = {"label": label, "data_used": used, "half": half, "params": "{}"}
        numbers["n_examples"] = 20 if label == "failed on a task" else 40
        return place | numbers | words | {"compression": 0.5, "finetune_epochs": 0, "value": 1.0}

    plain, text = "weights", "weights, training text"
    halves = pd.DataFrame(
        [
            row("svd", plain, "selection", 9.0),
            row("svd", plain, "confirmation", 8.0),
            row("a", plain, "selection", 2.0),
            row("a", plain, "confirmation", 5.0),
            row("b", plain, "selection", 3.0),
            row("b", plain, "confirmation", 1.0),
            row("c", text, "selection", 0.5),
            row("c", text, "confirmation", 0.25),
            row("failed on a task", text, "selection", 0.0),
            row("failed on a task", text, "confirmation", 0.0),
            row("lost on one half", text, "selection", 0.1),
        ]
    )
    shown = winners_table(halves).sections["net"].set_index("data access")
    assert list(shown["method"]) == ["a", "c"]
    assert shown.loc["data-free", "drop, confirmation"] == "5.00 [4.00, 6.00]"
    assert shown.loc["data-free", "svd, confirmation"] == "8.00 [7.00, 9.00]"
    assert shown.loc["data-free", "rank, confirmation"] == "2 of 3"
    assert shown.loc["with the training text", "drop, selection"] == "0.50"


def test_methods_compete_by_the_data_that_they_look_at():
    assert data_access("weights") == data_access("weights, vocabulary order") == "data-free"
    assert data_access("weights, vocabulary order, training text") == "with the training text"
    assert data_access("weights, training text and labels") == "with training labels"
