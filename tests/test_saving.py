"""The largest compression whose drop on the selection rows is within half a point."""

import pandas as pd
import pytest

from lowrank_bench.report.saving_table import saving_table
from lowrank_bench.score.saving import choice_splits, largest_savings

TASKS = {
    "cifar10": {
        "evaluation": [
            {"split": "test", "metrics": ["accuracy"], "choice": False},
            {"split": "train[-9:]", "metrics": ["accuracy"], "choice": True},
        ]
    },
    "sst2": {"evaluation": [{"split": "validation", "metrics": ["accuracy"], "choice": False}]},
}


def row(method, compression, split, drop, seed=0, task="cifar10"):
    kept = 1 - compression
    return {
        **dict.fromkeys(("experiment", "params", "label", "data_used", "budget"), "x"),
        "model": "net",
        "task": task,
        "method": method,
        "target": "conv",
        "finetune_epochs": 0,
        "metric": "accuracy",
        "status": "ok",
        "seed": seed,
        "split": split,
        "compression": compression,
        "achieved_compression": compression,
        "value": 90 - drop,
        "dense_value": 90.0,
        "drop": drop,
        "drop_ci_low": drop - 1,
        "drop_ci_high": drop + 1,
        "network_parameters_dense": 1000,
        "network_parameters_kept": 1000 * kept,
        "macs_dense": 400,
        "macs_kept": 400 * kept,
        "note": "a copy",
    }


def table(*rows):
    return largest_savings(pd.DataFrame(rows), TASKS, choice_splits(TASKS))


def test_only_tasks_with_both_splits_take_part():
    assert choice_splits(TASKS) == {"cifar10": ("train[-9:]", "test")}


def test_one_split_chooses_and_the_other_is_reported():
    drops = {0.2: (0.1, 3.0), 0.5: (0.4, 2.0), 0.7: (0.6, 0.0)}  # the test set would choose 0.7
    rows = [row("a", c, "train[-9:]", first) for c, (first, _) in drops.items()]
    rows += [row("a", c, "test", other) for c, (_, other) in drops.items()]
    (saving,) = table(*rows).to_dict("records")
    assert saving["compression"] == 0.5
    assert saving["choice_drop"] == 0.4
    assert (saving["drop"], saving["drop_ci_low"]) == (2.0, 1.0)
    assert saving["parameter_reduction"] == pytest.approx(50)
    assert saving["macs_reduction"] == pytest.approx(50)


def test_seeds_are_averaged_before_the_choice():
    rows = [row("a", 0.5, "train[-9:]", drop, seed) for seed, drop in enumerate((0.1, 0.8))]
    rows += [row("a", 0.5, "test", drop, seed) for seed, drop in enumerate((1.0, 2.0))]
    (saving,) = table(*rows).to_dict("records")
    assert saving["compression"] == 0.5
    assert (saving["drop"], saving["n_seeds"]) == (1.5, 2)


def test_a_method_with_no_such_compression_is_still_listed():
    rows = [row("bad", 0.5, split, 9.0) for split in ("test", "train[-9:]")]
    savings = table(*rows, *[row("good", 0.5, split, 0.0) for split in ("test", "train[-9:]")])
    assert savings.set_index("method")["compression"].isna().to_dict() == {
        "bad": True,
        "good": False,
    }
    shown = saving_table(savings).sections["net"].set_index("method")
    assert list(shown["drop"]) == ["0.00 [-1.00, 1.00]", "none within"]
