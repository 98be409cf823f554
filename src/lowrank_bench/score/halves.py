"""Scores on two halves of every split: one to choose a method by, one to confirm the choice."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from lowrank_bench.score.scored_cell import ScoredCell
from lowrank_bench.score.scores import build_scores

HALVES = ("selection", "confirmation")
AVERAGE = "glue"


def score_halves(
    cells: Sequence[ScoredCell],
    tasks: Mapping[str, Mapping[str, Any]],
    references: Mapping[tuple[str, str], np.ndarray],
    seed: int = 0,
    **settings: Any,
) -> pd.DataFrame:
    """Return the averages over tasks on each half, columns of `schema.SUMMARY` and `half`.

    Parameters
    ----------
    cells, tasks, references
        As in `scores.build_scores`, which also takes `settings`.
    seed
        Seed of the shuffle whose first half of the rows is `selection`; the same for all cells.
    """
    parts = []
    for number, half in enumerate(HALVES):
        rows = {
            place: np.random.default_rng(seed).permutation(len(labels))[
                number * len(labels) // 2 : (number + 1) * len(labels) // 2
            ]
            for place, labels in references.items()
        }
        some = [_restricted(cell, rows) for cell in cells]
        labels = {place: references[place][chosen] for place, chosen in rows.items()}
        _, summary = build_scores(some, tasks, labels, seed=seed, **settings)
        parts.append(summary[summary["task"] == AVERAGE].assign(half=half))
    return pd.concat(parts, ignore_index=True)


def _restricted(cell: ScoredCell, rows: Mapping[tuple[str, str], np.ndarray]) -> ScoredCell:
    """Return the cell with the predictions of these rows alone."""
    task = cell.meta["task"]
    kept = {
        split: logits[rows[task, split]] if len(logits) > rows[task, split].max() else logits
        for split, logits in cell.predictions.items()
        if (task, split) in rows and rows[task, split].size
    }
    return replace(cell, predictions=kept)
