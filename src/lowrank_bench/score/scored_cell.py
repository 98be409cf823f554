"""A cell with its predictions, and the cells that it is compared with."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowrank_bench.errors import LowRankError
from lowrank_bench.store.digest import canonical

DENSE = "dense"
# Columns that identify a cell. The label is not one: it only renders the method's parameters.
IDENTITY = (
    "experiment",
    "model",
    "task",
    "method",
    "params",
    "target",
    "compression",
    "seed",
    "finetune_epochs",
)
CHECKPOINT = ("model", "task", "seed")
BUDGET = (*CHECKPOINT, "target", "compression", "finetune_epochs")


@dataclass(frozen=True, eq=False)
class ScoredCell:
    """One evaluated cell, as `scores.build_scores` takes it.

    Attributes
    ----------
    meta
        Columns of `schema.SCORES` that are known of the cell; absent ones become null, other
        keys are ignored. `params` is canonical JSON. The dense network has method `dense` and
        compression 0.
    predictions
        From split to logits: n×labels, or n×1 for a regression; for sentence vectors their cosines,
        n×3 for pairs and n×1 for single sentences.
    status
        `ok`, `skipped` or `failed`.
    reason
        Why it is not `ok`.
    """

    meta: dict[str, Any]
    predictions: dict[str, NDArray[np.floating[Any]]]
    status: str = "ok"
    reason: str = ""

    def key(self, columns: Sequence[str]) -> tuple[Any, ...]:
        """Return the values of `columns`, None where absent."""
        return tuple(self.meta.get(name) for name in columns)

    def title(self) -> str:
        """Return a short name for messages."""
        return " · ".join(f"{name} {self.meta.get(name)}" for name in IDENTITY[1:])


def plain_task(name: str) -> str:
    """Return a task's name without what marks it as generated: `wnli` for `quick_wnli`."""
    return name.removeprefix("quick_")


def has_parameters(params: str, wanted: Mapping[str, Any]) -> bool:
    """Return whether the parameters of a series, canonical JSON, hold the wanted ones.

    Factors in few bits are another series, unless `wanted` names `quantize`.
    """
    known = json.loads(params or "{}")
    needed = {"quantize": None, **wanted}
    return all(known.get(name) == value for name, value in needed.items())


def check_cells(cells: Sequence[ScoredCell], tasks: Sequence[str]) -> None:
    """Check that all cells are different and belong to `tasks`.

    Raises
    ------
    LowRankError
        For a task that is not among `tasks`, or two cells with the same identity.
    """
    seen = set()
    for cell in cells:
        task = cell.meta.get("task")
        if task not in tasks:
            raise LowRankError(f"task {task!r} of a cell is not among: {', '.join(tasks)}")
        key = cell.key(IDENTITY)
        if key in seen:
            raise LowRankError(f"the same cell is given twice: {cell.title()}")
        seen.add(key)


def dense_partners(cells: Sequence[ScoredCell]) -> list[int | None]:
    """Return for every cell the place of its checkpoint's dense network as trained, else None."""
    places = {
        cell.key(CHECKPOINT): place
        for place, cell in enumerate(cells)
        if cell.meta["method"] == DENSE and not cell.meta.get("finetune_epochs")
    }
    return [places.get(cell.key(CHECKPOINT)) for cell in cells]


def baseline_partners(cells: Sequence[ScoredCell], baseline: str) -> list[int | None]:
    """Return for every cell the place of the baseline at its budget, else None.

    The baseline counts without parameters only. The dense network and the baseline itself have
    no partner.
    """
    plain = canonical({})
    places = {
        cell.key(BUDGET): place
        for place, cell in enumerate(cells)
        if cell.meta["method"] == baseline and cell.meta.get("params", plain) == plain
    }
    partners = [
        None if cell.meta["method"] == DENSE else places.get(cell.key(BUDGET)) for cell in cells
    ]
    return [None if partner == place else partner for place, partner in enumerate(partners)]
