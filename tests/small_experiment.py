"""A small experiment with random predictions, for the tests of scores and averages."""

import numpy as np

from lowrank_bench.score.draws import generator, resample_blocks
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
        outcome = {key: changes.pop(key) for key in ("status", "reason") if key in changes}
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
        self.cells.append(ScoredCell(meta | changes, predictions, **outcome))
        return self.cells[-1]

    def build(self, **options):
        return build_scores(self.cells, self.tasks, self.references, resamples=RESAMPLES, **options)


def line(table, **wanted):
    """Return the only row that matches `wanted`."""
    for name, value in wanted.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


def guess(cell, split="validation"):
    return cell.predictions[split].argmax(axis=1)


def draws(function, references, scores, name, split="validation", seed=0):
    """Return a metric on the resamples of a split, computed one explicit resample at a time."""
    n = len(references)
    (block,) = resample_blocks(n, RESAMPLES, generator(seed, "bootstrap", name, split))
    drawn = [np.repeat(np.arange(n), row.astype(int)) for row in block]
    return np.array([function(references[rows], scores[rows]) for rows in drawn])


def ends(values):
    return np.percentile(100 * values, [2.5, 97.5])
