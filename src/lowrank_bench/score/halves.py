"""Scores on two halves of every split: one to choose a method on, one to confirm the choice."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lowrank_bench.score.scored_cell import ScoredCell
from lowrank_bench.score.scores import build_scores

HALVES = ("selection", "confirmation")
AVERAGE = "glue"


def score_halves(
    cells: Sequence[ScoredCell],
    tasks: Mapping[str, Mapping[str, Any]],
    references: Mapping[tuple[str, str], NDArray[np.number[Any]]],
    seed: int = 0,
    **settings: Any,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the averages over tasks on each half, and all scores on each half.

    The averages have the columns of `schema.SUMMARY` and `half`. A network with a single task
    outside GLUE is represented by the headline metric of that task. The scores have the columns of
    `schema.SCORES`, with the half as their `split`.

    Parameters
    ----------
    cells, tasks, references
        As in `scores.build_scores`, which also takes `settings`.
    seed
        Seed of the shuffle whose first half of the rows is `selection`; the same for all cells.
    """
    parts, whole = [], []
    first = {(task, entry["evaluation"][0]["split"]) for task, entry in tasks.items()}
    for number, half in enumerate(HALVES):
        # One permutation for each split, cut in the middle: halves share no row and omit none.
        rows = {
            place: np.random.default_rng(seed).permutation(len(labels))[
                number * len(labels) // 2 : (number + 1) * len(labels) // 2
            ]
            for place, labels in references.items()
        }
        restricted = [_restricted(cell, rows) for cell in cells]
        labels = {place: references[place][chosen] for place, chosen in rows.items()}
        scores, summary = build_scores(restricted, tasks, labels, seed=seed, **settings)
        parts.append(_headlines(summary, tasks).assign(half=half))
        wanted = [place in first for place in zip(scores["task"], scores["split"], strict=True)]
        whole.append(scores[wanted].assign(split=half))
    return pd.concat(parts, ignore_index=True), pd.concat(whole, ignore_index=True)


def _headlines(summary: pd.DataFrame, tasks: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Return the GLUE averages, or the headline metric of networks with one task outside GLUE."""
    # A network of one task has no average: its one headline metric stands for it.
    averages = summary["task"] == AVERAGE
    others = ~summary["model"].isin(set(summary.loc[averages, "model"]))
    counts = summary[others].groupby("model")["task"].nunique()
    single = others & summary["model"].map(counts).eq(1)
    first = {name: task["evaluation"][0] for name, task in tasks.items()}
    # The headline is the first metric on the first split that the task names.
    entry = summary["task"].map(first)
    split = entry.map(lambda part: part["split"] if isinstance(part, Mapping) else None)
    metric = entry.map(lambda part: part["metrics"][0] if isinstance(part, Mapping) else None)
    single &= (summary["split"] == split) & (summary["metric"] == metric)
    return summary[averages | single]


def _restricted(
    cell: ScoredCell, rows: Mapping[tuple[str, str], NDArray[np.integer[Any]]]
) -> ScoredCell:
    """Return the cell with its predictions for these rows alone.

    Predictions for fewer rows than the split has stay as they are; scoring then reports them.
    """
    task = cell.meta["task"]
    kept = {
        split: logits[rows[task, split]] if len(logits) > rows[task, split].max() else logits
        for split, logits in cell.predictions.items()
        if (task, split) in rows and rows[task, split].size
    }
    return replace(cell, predictions=kept)
