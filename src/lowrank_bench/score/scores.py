"""From evaluated cells to the two result tables, `scores` and `summary`.

Metrics and differences in the tables are in points (0 to 100). All cells of a task share its
resamples, so the interval of a drop is paired. `averages` says how tasks are averaged.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lowrank_bench.score.averages import average_rows
from lowrank_bench.score.comparison import Row
from lowrank_bench.score.metrics import check_metrics
from lowrank_bench.score.schema import SCORES, SUMMARY
from lowrank_bench.score.scored_cell import (
    ScoredCell,
    baseline_partners,
    check_cells,
    dense_partners,
)
from lowrank_bench.score.split_scores import Split, Statistics, score_split
from lowrank_bench.score.summary import summary_records

__all__ = ["ScoredCell", "build_scores", "splits_of"]

INTEGERS = (
    *("seed", "n_examples", "n_seeds", "parameters_dense", "parameters_kept", "index_bits"),
    *("network_parameters_dense", "network_parameters_kept", "macs_dense", "macs_kept"),
)
TEXT = (
    *("experiment", "model", "task", "split", "method", "params", "label", "data_used"),
    *("target", "budget", "metric"),
    *("status", "reason", "note", "code_digest", "config_digest", "git_commit", "versions"),
    *("device", "created_at", "left_out"),
)


def build_scores(
    cells: Sequence[ScoredCell],
    tasks: Mapping[str, Mapping[str, Any]],
    references: Mapping[tuple[str, str], NDArray[np.number[Any]]],
    *,
    missing: Mapping[tuple[str, str], str] | None = None,
    resamples: int = 1000,
    permutations: int = 999,
    seed: int = 0,
    baseline: str = "svd",
    progress: Callable[[str], None] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score cells, compare them with the dense network and the baseline, and average.

    Parameters
    ----------
    cells
        The cells of one experiment, dense networks and failed cells included.
    tasks
        From name to task: `labels` (empty for a regression), `evaluation` (a list of `split` and
        its `metrics`), perhaps `glue`, the GLUE task that it stands for; of similarity `columns`.
    references
        From (task, split) to n labels (0, 1, …) or n scores.
    missing
        From (task, split) to the reason why the labels are missing.
    resamples, permutations
        Numbers of bootstrap resamples and of random swaps for the paired test.
    seed
        Seed of both; the same for all cells.
    baseline
        Method of the columns `vs_svd`, at the same checkpoint and budget.
    progress
        Called with one line for each task and split before it is scored.

    Returns
    -------
    scores, summary
        Tables with the columns of `schema.SCORES` and `schema.SUMMARY`. A cell that could not
        be scored has a row with a status and a reason.

    Raises
    ------
    LowRankError
        If a cell belongs to an unknown task or occurs twice, a metric does not fit its task, or
        two tasks stand for the same GLUE task.
    """
    check_cells(cells, list(tasks))
    statistics = Statistics(resamples, permutations, seed)
    rows: list[list[Row]] = [[] for _ in cells]
    for split in splits_of(tasks, references, missing or {}):
        places = [place for place, cell in enumerate(cells) if cell.meta["task"] == split.task]
        if progress and places:
            progress(f"{split.task} · {split.name}: {len(places)} cells")
        parts = _split_rows([cells[place] for place in places], split, statistics, baseline)
        for place, part in zip(places, parts, strict=True):
            rows[place] += part
    flat = [row for part in rows for row in part]
    flat += average_rows(flat, tasks)
    scores = [row.meta | (row.comparison.columns() if row.comparison else {}) for row in flat]
    return _table(scores, SCORES), _table(summary_records(flat), SUMMARY)


def splits_of(
    tasks: Mapping[str, Mapping[str, Any]],
    references: Mapping[tuple[str, str], NDArray[np.number[Any]]],
    missing: Mapping[tuple[str, str], str],
) -> list[Split]:
    """Return the splits of all tasks; parameters as in `build_scores`."""
    splits = []
    for name, task in tasks.items():
        vectors = len(task["columns"]) if task.get("modality") == "similarity" else 0
        for part in task["evaluation"]:
            place = (name, part["split"])
            check_metrics(part["metrics"], len(task["labels"]), vectors)
            labels = references.get(place)
            splits.append(
                Split(
                    *place,
                    metrics=part["metrics"],
                    n_labels=len(task["labels"]),
                    references=None if labels is None else np.asarray(labels),
                    missing=missing.get(place, ""),
                    vectors=vectors,
                )
            )
    return splits


def _split_rows(
    cells: Sequence[ScoredCell], split: Split, statistics: Statistics, baseline: str
) -> list[list[Row]]:
    """Return every cell's rows on one split, one per metric."""
    problems = [split.problem(cell) for cell in cells]
    good = [cell for cell, problem in zip(cells, problems, strict=True) if problem is None]
    scored = iter(
        score_split(
            good, dense_partners(good), baseline_partners(good, baseline), split, statistics
        )
        if good
        else ()
    )
    rows = []
    for cell, problem in zip(cells, problems, strict=True):
        status, reason = problem or ("ok", "")
        meta = {"note": "", **cell.meta, "split": split.name, "status": status, "reason": reason}
        meta["n_examples"] = None if split.references is None else len(split.references)
        comparisons = {} if problem else next(scored)
        rows.append([Row(meta | {"metric": name}, comparisons.get(name)) for name in split.metrics])
    return rows


def _table(records: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> pd.DataFrame:
    """Return records as a table: nullable integers, text with None, all other columns float."""
    table = pd.DataFrame(list(records), columns=list(columns))
    for name in columns:
        if name in INTEGERS:
            table[name] = table[name].astype("Int64")
        elif name in TEXT:
            table[name] = table[name].astype(object).where(table[name].notna(), None)
        else:
            table[name] = table[name].astype(float)
    return table
