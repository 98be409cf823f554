"""A series whose parameter is chosen on training rows, as a user without a test set would."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowrank_bench.score.metrics import METRICS, compute, predict_labels
from lowrank_bench.score.scored_cell import IDENTITY, ScoredCell
from lowrank_bench.store.digest import canonical

CHOSEN = "chosen"


def chosen_by_training(
    cells: Sequence[ScoredCell],
    references: Mapping[tuple[str, str], NDArray[np.number[Any]]],
    tasks: Mapping[str, Mapping[str, Any]],
    method: str,
    parameter: str,
) -> list[ScoredCell]:
    """Return one more cell for each checkpoint and budget: the best on the training rows.

    Parameters
    ----------
    cells
        Cells of the experiment, with predictions for part of the training split.
    references
        From (task, split) to the labels, those of the training rows included.
    method, parameter
        Cells of `method` that differ in `parameter` only are compared by the task's headline
        metric on the training rows; of equal ones the first is taken. In the parameters of the
        new cell the value of `parameter` is `"chosen"`.

    References
    ----------
    Maalouf et al., "Deep Learning Meets Projective Clustering", ICLR 2021, section 3: the number
    of clusters is chosen by the accuracy on the training set.
    """
    groups: dict[tuple[Any, ...], list[ScoredCell]] = defaultdict(list)
    for cell in cells:
        if cell.meta["method"] == method and cell.status == "ok":
            params = {**json.loads(cell.meta["params"]), parameter: CHOSEN}
            others = tuple(cell.meta.get(name) for name in IDENTITY if name != "params")
            groups[(*others, canonical(params))].append(cell)
    best_cells = []
    for key, group in groups.items():
        trained = [cell for cell in group if _training_split(cell)]
        if not trained:
            continue
        best = max(trained, key=lambda cell: _training_metric(cell, references, tasks))
        label = _label(best.meta["label"], parameter)
        best_cells.append(replace(best, meta={**best.meta, "params": key[-1], "label": label}))
    return best_cells


def _label(label: str, parameter: str) -> str:
    """Return `messi (k=5, q=1)` as `messi (k chosen, q=1)`."""
    return re.sub(rf"\b{re.escape(parameter)}=[^,)]+", f"{parameter} {CHOSEN}", label)


def _training_split(cell: ScoredCell) -> str:
    """Return the split with a range of rows, such as `train[:500]`; empty where there is none."""
    return next((name for name in cell.predictions if "[:" in name), "")


def _training_metric(
    cell: ScoredCell,
    references: Mapping[tuple[str, str], NDArray[np.number[Any]]],
    tasks: Mapping[str, Mapping[str, Any]],
) -> float:
    task = tasks[cell.meta["task"]]
    metric = task["evaluation"][0]["metrics"][0]
    split = _training_split(cell)
    labels = predict_labels(cell.predictions[split], METRICS[metric].kind)
    return compute([metric], labels, references[cell.meta["task"], split])[metric]
