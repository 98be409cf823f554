"""The rows that figures and tables show, their order, and the names that readers see."""

import re
from collections.abc import Iterable, Sequence

import pandas as pd

from lowrank_bench.report.columns import NUMBERS, TEXT

AVERAGES = {"glue": "GLUE average", "glue_no_wnli": "GLUE average without WNLI"}
TASKS = {
    "cola": "CoLA",
    "sst2": "SST-2",
    "mrpc": "MRPC",
    "stsb": "STS-B",
    "qqp": "QQP",
    "mnli": "MNLI",
    "qnli": "QNLI",
    "rte": "RTE",
    "wnli": "WNLI",
}
METRICS = {
    "matthews_correlation": "Matthews",
    "f1": "F1",
    "spearmanr": "Spearman",
    "pearson": "Pearson",
    "cosine_to_dense": "cosine to dense",
}
LAYERS = {"embedding": "the embedding", "linear": "the linear layers", "conv": "the convolutions"}
# What a compression is a share of, where it is not parameters.
BUDGETS = {"macs": "multiply-adds", "latency": "measured time"}
CELL = ("model", "task", "series", "compression", "seed")
LEVEL = 0.05  # of the tests against SVD


def tidy(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a copy of scores or summary that figures and tables can rely on.

    The columns that `columns` names are added where absent; those of text hold strings (empty
    where missing), the others floats. An average, which has no budget, takes that of its tasks.
    The new column `series` is the label, with the target or the epochs of fine-tuning added where
    the experiment has several of them; `percent` is the requested compression in percent.
    """
    frame = frame.copy().reset_index(drop=True)
    for name in (*TEXT, *NUMBERS):
        column = frame[name] if name in frame else pd.Series(None, frame.index, dtype=object)
        if name in TEXT:
            frame[name] = column.astype(object).where(column.notna(), "").astype(str)
        else:
            frame[name] = pd.to_numeric(column, errors="coerce").astype(float)
    frame["label"] = frame["label"].where(frame["label"] != "", frame["method"])
    frame["budget"] = _budget(frame)
    frame["series"] = _series(frame)
    frame["percent"] = (100 * frame["compression"]).map("{:g}%".format)
    return frame


def _budget(frame: pd.DataFrame) -> pd.Series:
    known = frame[frame["budget"] != ""]
    of_network = known.drop_duplicates("model").set_index("model")["budget"]
    return frame["budget"].where(frame["budget"] != "", frame["model"].map(of_network).fillna(""))


def _series(frame: pd.DataFrame) -> pd.Series:
    compressed = frame[~as_trained(frame)]
    series = frame["label"]
    if compressed["target"].replace("", pd.NA).groupby(compressed["model"]).nunique().max() > 1:
        series = series + ", " + frame["target"]
    if compressed["finetune_epochs"].nunique() > 1:
        series = series + ", " + frame["finetune_epochs"].map(epochs)
    return series


def budget_unit(rows: pd.DataFrame) -> str:
    """Return what the compressions of tidied rows are shares of; empty for parameters."""
    budgets = sorted(set(rows.loc[~as_trained(rows), "budget"]))
    names = dict.fromkeys(BUDGETS.get(name, "parameters") for name in budgets)
    return "" if set(names) <= {"parameters"} else " or ".join(names)


def budget_clause(rows: pd.DataFrame) -> str:
    """Return what a caption adds about the budget; empty for a budget of parameters."""
    unit = budget_unit(rows)
    return f"; compression: share of the targeted layers' {unit} that is saved" if unit else ""


def no_average(scores: pd.DataFrame | None, summary: pd.DataFrame) -> str:
    """Return why tidied frames hold no average over the GLUE tasks."""
    known = summary if scores is None else pd.concat([scores, summary])
    tasks = task_order(set(known["task"]) - set(AVERAGES))
    if not tasks or known["task"].isin(AVERAGES).any() or any(_of_glue(task) for task in tasks):
        return "no average over GLUE tasks: their cells are missing, see the status table"
    return (
        "no average over GLUE tasks: the experiment has none of them; its drops on "
        f"{', '.join(map(task_title, tasks))} stand in the figure of each network"
    )


def plain_name(task: str) -> str:
    """Return a task's name without a prefix: `mnli` for `quick_mnli`."""
    return task.rpartition("_")[2]


def _of_glue(task: str) -> bool:
    return plain_name(task) in TASKS


def as_trained(frame: pd.DataFrame) -> pd.Series:
    """Say which rows are dense networks as trained; those trained further count as compressed."""
    return (frame["method"] == "dense") & ~(frame["finetune_epochs"] > 0)


def epochs(count: float) -> str:
    """Return a number of epochs in words: `1 epoch`, `2 epochs`."""
    return f"{count:g} epoch" + ("" if count == 1 else "s")


def compressed(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of compressed networks on single tasks: no dense rows, no averages."""
    return frame[~as_trained(frame) & ~frame["task"].isin(AVERAGES)]


def averages(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of compressed networks that are averages over tasks."""
    return frame[~as_trained(frame) & frame["task"].isin(AVERAGES)]


def is_baseline(frame: pd.DataFrame) -> pd.Series:
    """Say which rows are plain SVD, the baseline of the others."""
    return (frame["method"] == "svd") & frame["params"].isin(["", "{}"])


def headline(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of each task's headline metric on one split, with their title `panel`.

    The configuration lists the headline metric of a task first, so it is the one that the task's
    rows name first. The split is the first that has values. Nothing is averaged over metrics or
    splits, so that a number and its interval belong together.
    """
    parts = []
    for (_, task), rows in compressed(frame).groupby(["model", "task"], sort=False):
        rows = rows[rows["metric"] != ""]
        if rows.empty:
            continue
        valued = rows[rows["value"].notna()]
        first = (rows if valued.empty else valued).iloc[0]
        shown = [METRICS.get(first["metric"], first["metric"])]
        shown += [short_split(first["split"])] if rows["split"].nunique() > 1 else []
        rows = rows[(rows["metric"] == first["metric"]) & (rows["split"] == first["split"])]
        parts.append(rows.assign(panel=f"{task_title(task)} ({', '.join(shown)})"))
    return pd.concat(parts) if parts else compressed(frame).head(0).assign(panel="")


def task_title(task: str) -> str:
    """Return the name of a task or an average as readers know it: `quick CoLA` for `quick_cola`."""
    if task in AVERAGES:
        return AVERAGES[task]
    kind, _, name = task.rpartition("_")
    return f"{kind} {TASKS[name]}".strip() if name in TASKS else task


def short_split(split: str) -> str:
    """Return the name of a split as shown: `matched` for `validation_matched`."""
    return split.removeprefix("validation_")


def task_order(tasks: Iterable[str]) -> list[str]:
    """Return tasks in the order of GLUE, then other tasks, then the averages."""
    places = {name: place for place, name in enumerate([*TASKS, "", *AVERAGES])}

    def _key(task: str) -> tuple[int, list[tuple[float, str]]]:
        name = task if task in AVERAGES else plain_name(task)
        return places.get(name, places[""]), natural((task,))

    return sorted(set(tasks), key=_key)


def natural(key: tuple[object, ...]) -> list[tuple[float, str]]:
    """Return a sort key that orders texts by the numbers in them: p=1.5 before p=10."""
    parts = re.split(r"(\d+\.?\d*)", " ".join(str(part) for part in key))
    return [(float(part), "") if n % 2 else (0.0, part) for n, part in enumerate(parts)]


def lost_cells(scores: pd.DataFrame | None, keys: Sequence[str] = CELL) -> pd.DataFrame:
    """Return one row for each cell of tidied `scores` that failed or was skipped on any split.

    Averages do not count as cells. The column `wholly` says whether the cell has no score at all.
    Rows that agree in `keys` are the same cell.
    """
    if scores is None:
        return tidy(pd.DataFrame()).assign(wholly=False)
    cells = scores[~scores["task"].isin(AVERAGES)]
    good = cells["status"].isin(["ok", ""])
    scored = set(cells.loc[good, list(CELL)].itertuples(index=False, name=None))
    lost = cells[~good].drop_duplicates(list(keys))
    every = lost[list(CELL)].itertuples(index=False, name=None)
    return lost.assign(wholly=[cell not in scored for cell in every])


def lost_line(lost: pd.DataFrame) -> str:
    """Return the line on how many of `lost_cells` have no score; empty if all have one."""
    count = int(lost["wholly"].sum())
    cells = "cell" if count == 1 else "cells"
    return f"{count} {cells} failed or skipped: see the scores and status tables" if count else ""


def note_lines(rows: pd.DataFrame, limit: int = 6) -> list[str]:
    """Return the distinct notes of `rows`, verbatim, each with the rows that it applies to.

    Parameters
    ----------
    rows
        Tidied rows with a column `panel`.
    limit
        Largest number of lines; if there are more notes, the last line says how many.
    """
    lines = []
    for note, part in rows[rows["note"] != ""].groupby("note", sort=True):
        scopes = [_places(part, rows), _names(part, rows, "series"), _names(part, rows, "percent")]
        scope = "; ".join(text for text in scopes if text)
        lines.append(_marked(note) + (f" [{scope}]" if scope else ""))
    if len(lines) > limit:
        more = len(lines) - limit + 1
        lines = [*lines[: limit - 1], f"and {more} more notes: see the tables"]
    return lines


def _marked(note: str) -> str:
    clear = "synthetic data" in note.lower() or re.match("synthetic .*data", note.lower())
    return f"synthetic data: {note}" if is_synthetic(note) and not clear else note


def is_synthetic(note: str) -> bool:
    """Say whether a note declares that the data were made up."""
    return "synthetic" in note.lower()


def _places(part: pd.DataFrame, whole: pd.DataFrame) -> str:
    """Return where a note applies: networks if it applies to all their tasks, else tasks."""
    pairs, every = (
        set(rows[["model", "panel"]].itertuples(index=False, name=None)) for rows in (part, whole)
    )
    if pairs == every:
        return ""
    names = []
    for model in sorted({model for model, _ in pairs}):
        panels = sorted(panel for name, panel in pairs if name == model)
        if len({name for name, _ in every}) == 1:
            names += panels
        elif len(panels) == sum(name == model for name, _ in every):
            names.append(model)
        else:
            names += [f"{model}: {panel}" for panel in panels]
    short = f"{len(pairs)} of {len(every)} pairs of network and task"
    return ", ".join(names) if len(names) <= 5 else short


def _names(part: pd.DataFrame, whole: pd.DataFrame, column: str) -> str:
    names, every = list(dict.fromkeys(part[column])), whole[column].nunique()
    if len(names) == every:
        return ""
    noun = {"series": "methods", "percent": "compressions"}[column]
    return ", ".join(names) if len(names) <= 5 else f"{len(names)} of {every} {noun}"
