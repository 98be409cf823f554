"""What figures and tables share: which rows they show, in which order, under which names."""

import re
from collections.abc import Iterable

import pandas as pd

from lowrank_bench.score.schema import SCORES, SUMMARY

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
}
# Devlin et al. (2019), table 1, show F1 for MRPC and QQP and Spearman for STS-B; a task with
# none of these shows the metric that its rows name first.
HEADLINE = ("matthews_correlation", "f1", "spearmanr")
LEVEL = 0.05  # of the tests against SVD
COLUMNS = SCORES | SUMMARY
TEXT = {"experiment", "model", "task", "split", "method", "params", "label", "target", "metric"}
TEXT |= {"note", "status", "reason", "code_digest", "config_digest", "git_commit", "versions"}
TEXT |= {"device", "created_at"}


def tidy(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a copy of scores or summary that figures and tables can rely on.

    Text columns hold strings (missing ones are empty), numeric ones floats, absent columns are
    added. The new column `series` is the label, with the target or the epochs of fine-tuning
    added where the experiment has several of them; `percent` is the asked compression in percent.
    """
    frame = frame.copy().reset_index(drop=True)
    for name in COLUMNS:
        column = frame[name] if name in frame else pd.Series(None, frame.index, dtype=object)
        if name in TEXT:
            frame[name] = column.astype(object).where(column.notna(), "").astype(str)
        else:
            frame[name] = pd.to_numeric(column, errors="coerce").astype(float)
    frame["label"] = frame["label"].where(frame["label"] != "", frame["method"])
    frame["series"] = _series(frame)
    frame["percent"] = (100 * frame["compression"]).map("{:g}%".format)
    return frame


def _series(frame: pd.DataFrame) -> pd.Series:
    compressed = frame[frame["method"] != "dense"]
    series = frame["label"]
    if compressed["target"].replace("", pd.NA).nunique() > 1:
        series = series + ", " + frame["target"]
    if compressed["finetune_epochs"].nunique() > 1:
        series = series + ", " + frame["finetune_epochs"].map(epochs)
    return series


def epochs(count: float) -> str:
    """Return a number of epochs in words: `1 epoch`, `2 epochs`."""
    return f"{count:g} epoch" + ("" if count == 1 else "s")


def compressed(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of compressed networks on single tasks: no dense rows, no averages."""
    return frame[(frame["method"] != "dense") & ~frame["task"].isin(AVERAGES)]


def averages(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of compressed networks that are averages over tasks."""
    return frame[(frame["method"] != "dense") & frame["task"].isin(AVERAGES)]


def headline(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of each task's one shown metric, on its first split, with its title `panel`.

    A task with several metrics is shown by its first one in `HEADLINE` (else the one that its
    rows name first), so that the interval drawn belongs to the number drawn.
    """
    parts = []
    for (_, task), rows in compressed(frame).groupby(["model", "task"], sort=False):
        rows = rows[rows["metric"] != ""]
        if rows.empty:
            continue
        found = list(dict.fromkeys(rows["metric"]))
        metric = next((name for name in HEADLINE if name in found), found[0])
        splits = sorted(set(rows["split"]))
        shown = [METRICS.get(metric, metric), *([short_split(splits[0])] if splits[1:] else [])]
        rows = rows[(rows["metric"] == metric) & (rows["split"] == splits[0])]
        parts.append(rows.assign(panel=f"{TASKS.get(task, task)} ({', '.join(shown)})"))
    return pd.concat(parts) if parts else compressed(frame).head(0).assign(panel="")


def short_split(split: str) -> str:
    """Return a split as shown: `validation_matched` as `matched`."""
    return split.removeprefix("validation_")


def task_order(tasks: Iterable[str]) -> list[str]:
    """Return tasks in the order in which GLUE lists them, others after, the averages last."""
    known = [*TASKS, *AVERAGES]
    rank = {name: place for place, name in enumerate(known)}
    last = dict.fromkeys(AVERAGES, 1)
    return sorted(
        set(tasks), key=lambda t: (last.get(t, 0), rank.get(t, len(known)), natural((t,)))
    )


def natural(key: tuple[object, ...]) -> list[tuple[float, str]]:
    """Return a sorting key that orders texts by the numbers in them: p=1.5 before p=10."""
    parts = re.split(r"(\d+\.?\d*)", " ".join(str(part) for part in key))
    return [(float(part), "") if n % 2 else (0.0, part) for n, part in enumerate(parts)]


def lost_cells(scores: pd.DataFrame | None) -> pd.DataFrame:
    """Return one row per failed or skipped cell of tidied `scores`; averages are no cells."""
    if scores is None:
        return tidy(pd.DataFrame())
    lost = scores[~scores["status"].isin(["ok", ""]) & ~scores["task"].isin(AVERAGES)]
    return lost.drop_duplicates(["model", "task", "series", "compression", "seed"])


def note_lines(rows: pd.DataFrame, limit: int = 6) -> list[str]:
    """Return the distinct notes of `rows`, verbatim, each with what it holds for.

    Parameters
    ----------
    rows
        Tidied rows with a column `panel`.
    limit
        Most lines to return; the last one then says how many more there are.
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
    """Return where a note holds: networks where it holds for all their tasks, else tasks."""
    pairs, every = (
        set(rows[["model", "panel"]].itertuples(index=False, name=None)) for rows in (part, whole)
    )
    if pairs == every:
        return ""
    names = []
    for model in sorted({model for model, _ in pairs}):
        own = sorted(panel for name, panel in pairs if name == model)
        if len({name for name, _ in every}) == 1:
            names += own
        elif len(own) == sum(name == model for name, _ in every):
            names.append(model)
        else:
            names += [f"{model}: {panel}" for panel in own]
    short = f"{len(pairs)} of {len(every)} pairs of network and task"
    return ", ".join(names) if len(names) <= 5 else short


def _names(part: pd.DataFrame, whole: pd.DataFrame, column: str) -> str:
    names, every = list(dict.fromkeys(part[column])), whole[column].nunique()
    if len(names) == every:
        return ""
    noun = {"series": "methods", "percent": "compressions"}[column]
    return ", ".join(names) if len(names) <= 5 else f"{len(names)} of {every} {noun}"
