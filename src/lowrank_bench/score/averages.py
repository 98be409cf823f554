"""The GLUE average and its row in the tables.

The score of a task is the unweighted mean of its metrics over its evaluated splits: F1 and accuracy
for MRPC and QQP, Pearson and Spearman correlation for STS-B, matched and mismatched accuracy for
MNLI, one metric for the others. The average is the unweighted mean of the tasks' scores, in points
(Wang et al., GLUE, ICLR 2019). `glue` is over all nine tasks, the diagnostic set left out;
`glue_no_wnli` is over eight, as in papers that leave WNLI out for its construction (its development
set repeats training sentences with the opposite label; Devlin et al., NAACL 2019). A task of an
experiment stands for the GLUE task that its key `glue` names, or else for the one of the same name.

An average over fewer tasks names in `note` those that it lacks because they are not in the
experiment or their cells failed. Its drop and its difference from the baseline are over the same
tasks, splits and metrics as its value; they are empty when the dense network or the baseline lacks
one of these. Examples are resampled and swapped within each split, independently of other splits,
so the interval is that of the average over these tasks: tasks themselves are not resampled.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lowrank_bench.errors import LowRankError
from lowrank_bench.score.comparison import Row, mean
from lowrank_bench.score.scored_cell import IDENTITY

GLUE = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")
AVERAGES = {"glue": GLUE, "glue_no_wnli": GLUE[:-1]}
AVERAGE = "average"
# Columns that an average takes from its cells where these agree.
SHARED = ("parameters_dense", "parameters_kept", "code_digest", "git_commit", "versions", "device")


def glue_tasks(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the GLUE task that each task stands for; tasks outside GLUE are left out.

    Raises
    ------
    LowRankError
        If the key `glue` of a task is not the name of a GLUE task.
    """
    glue_names = {}
    for name, task in tasks.items():
        glue = task.get("glue") or (name if name in GLUE else None)
        if glue is not None and glue not in GLUE:
            raise LowRankError(f"task {name!r}: glue must be one of {', '.join(GLUE)}: {glue!r}")
        if glue is not None:
            glue_names[name] = glue
    return glue_names


def average_rows(rows: Sequence[Row], tasks: Mapping[str, Mapping[str, Any]]) -> Iterator[Row]:
    """Average the rows of every method, budget and seed over the GLUE tasks.

    Parameters
    ----------
    rows
        One row for each cell, split and metric, including those without numbers.
    tasks
        The tasks by name, as in `scores.build_scores`.

    Yields
    ------
    Row
        `glue` and `glue_no_wnli` of each group, if a task of the group belongs to GLUE.
    """
    glue_names = glue_tasks(tasks)
    groups: dict[tuple[Any, ...], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.meta["task"] in glue_names:
            key = tuple(row.meta.get(name) for name in IDENTITY if name != "task")
            groups[key][glue_names[row.meta["task"]]].append(row)
    for average, names in AVERAGES.items():
        for group in groups.values():
            yield _average(average, names, group)


def _average(average: str, names: Sequence[str], group: Mapping[str, Sequence[Row]]) -> Row:
    """Return the row of an average over the GLUE tasks `names`, from one group's rows by task."""
    any_row = next(iter(group.values()))[0]
    meta = {name: any_row.meta.get(name) for name in (*IDENTITY, "label", "data_used", "budget")}
    meta |= {"task": average, "split": "", "metric": AVERAGE, "status": "ok", "reason": ""}
    group = {name: group[name] for name in names if name in group}
    for glue, rows in group.items():
        _check_one_task(glue, rows)
    comparable = {name: [row for row in rows if row.comparison] for name, rows in group.items()}
    scored = {name: rows for name, rows in comparable.items() if rows}
    if not scored:
        reason = "no task of the average could be scored"
        failed = any(row.meta["status"] == "failed" for rows in group.values() for row in rows)
        return Row(meta | {"status": "failed" if failed else "skipped", "reason": reason})
    meta["note"] = _note(names, scored, group)
    # Each task counts once, however many splits and metrics it has.
    tasks = [mean([row.comparison for row in rows if row.comparison]) for rows in scored.values()]
    return Row(meta | _shared([row for rows in scored.values() for row in rows]), mean(tasks))


def _check_one_task(glue: str, rows: Sequence[Row]) -> None:
    names = sorted({row.meta["task"] for row in rows})
    if len(names) > 1:
        raise LowRankError(
            f"tasks {' and '.join(names)} both stand for GLUE's {glue}: "
            "evaluate them in separate experiments"
        )


def _note(
    names: Sequence[str], scored: Mapping[str, Sequence[Row]], group: Mapping[str, Sequence[Row]]
) -> str:
    """Return what the average lacks, then what is not standard in the data of its tasks."""
    parts = []
    absent = [name for name in names if name not in scored]
    if absent:
        tasks = "1 task" if len(scored) == 1 else f"{len(scored)} tasks"
        parts.append(f"average over {tasks}: without {', '.join(absent)}")
    for name in scored:
        lost = sorted({row.meta["split"] for row in group[name] if not row.comparison})
        parts += [f"{name} without {', '.join(lost)}"] if lost else []
    notes = {name: rows[0].meta.get("note") or "" for name, rows in scored.items()}
    distinct = set(notes.values())
    if len(distinct) == 1:
        parts += [note for note in distinct if note]
    else:
        parts += [f"{name}: {note}" for name, note in notes.items() if note]
    return "; ".join(parts)


def _shared(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the columns that an average derives from those of its rows."""
    by_split = {(row.meta["task"], row.meta["split"]): row.meta for row in rows}
    by_task = {row.meta["task"]: row.meta for row in rows}
    achieved = [meta.get("achieved_compression") for meta in by_task.values()]
    shared: dict[str, Any] = {"n_examples": sum(m["n_examples"] for m in by_split.values())}
    known = [value for value in achieved if value is not None]
    if len(known) == len(achieved):
        shared["achieved_compression"] = float(np.mean(known))
    for name in SHARED:
        values = {meta.get(name) for meta in by_task.values()}
        shared[name] = values.pop() if len(values) == 1 else None
    return shared
