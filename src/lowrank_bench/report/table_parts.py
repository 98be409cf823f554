"""Cells and sections of the tables that readers see."""

import pandas as pd

from lowrank_bench.report import frames
from lowrank_bench.report.style import line_styles


def number(value: float, places: int, sign: bool = False) -> str:
    """Return a number with fixed decimal places; empty if missing, never a negative zero."""
    if pd.isna(value):
        return ""
    value = round(value, places) or 0.0
    return f"{value:+.{places}f}" if sign else f"{value:.{places}f}"


def drop_cells(rows: pd.DataFrame, places: int = 1) -> list[str]:
    """Return `drop [low, high]` of every row, in points."""
    columns = ["drop", "drop_ci_low", "drop_ci_high"]
    triples = rows[columns].itertuples(index=False, name=None)
    return [interval(drop, low, high, places) for drop, low, high in triples]


def gain_cells(rows: pd.DataFrame, places: int = 1) -> list[str]:
    """Return `gain [low, high]` over SVD of every row, in points, with * where p < 0.05."""
    return [
        interval(row.vs_svd, row.vs_svd_ci_low, row.vs_svd_ci_high, places, sign=True)
        + ("*" if row.vs_svd_p < frames.LEVEL else "")
        for row in rows.itertuples()
    ]


def interval(value: float, low: float, high: float, places: int, sign: bool = False) -> str:
    """Return `value [low, high]`, or the value alone if it has no interval."""
    shown = number(value, places, sign)
    if pd.isna(low) or pd.isna(high):
        return shown
    return f"{shown} [{number(low, places, sign)}, {number(high, places, sign)}]"


def with_averages(summary: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the rows that tables show: headline metrics and averages with a value of `column`."""
    means = frames.averages(summary)
    means = means.assign(panel=means["task"].map(frames.AVERAGES))
    rows = pd.concat([frames.headline(summary), means])
    return rows[rows[column].notna()]


def notes(rows: pd.DataFrame) -> list[str]:
    """Return the notes on the tasks' rows, then those on the averages'."""
    means = rows["task"].isin(frames.AVERAGES)
    lines = [*frames.note_lines(rows[~means]), *frames.note_lines(rows[means])]
    return list(dict.fromkeys(lines))


def sections(rows: pd.DataFrame, scores: pd.DataFrame | None) -> dict[str, pd.DataFrame]:
    """Return a table for each network: a row for each compression and method, a column a panel.

    Parameters
    ----------
    rows
        Tidied rows with `panel` (title of the column) and `cell` (text).
    scores
        Tidied scores: a lost cell shows its status instead of a number. If None, it is blank.

    Returns
    -------
    dict of str to pandas.DataFrame
        Texts only; the first two columns are compression and method.
    """
    lost = frames.lost_cells(scores)
    lost = lost[~frames.as_trained(lost)]
    order = list(line_styles(pd.concat([lost, rows])))
    return {
        model: _section(part, lost[lost["model"] == model], order)
        for model, part in rows.groupby("model")
    }


def _section(rows: pd.DataFrame, lost: pd.DataFrame, order: list[str]) -> pd.DataFrame:
    titles = dict(zip(rows["task"], rows["panel"], strict=True))
    missing = lost["task"].map(lambda task: titles.get(task, frames.task_title(task)))
    lost = lost.assign(cell=lost["status"], panel=missing)
    every = pd.concat([rows, lost]).drop_duplicates(["compression", "series", "panel"])
    panels = list(dict.fromkeys(_by_task(every)["panel"]))
    table = every.pivot(index=["compression", "series"], columns="panel", values="cell")
    keys = sorted(table.index, key=lambda key: (key[0], order.index(key[1])))
    table = table.loc[keys, panels].fillna("")
    lead = pd.DataFrame(
        {"compression": [f"{100 * part:g}%" for part, _ in keys], "method": [n for _, n in keys]}
    )
    return pd.concat([lead, table.reset_index(drop=True)], axis=1)


def _by_task(rows: pd.DataFrame) -> pd.DataFrame:
    order = {task: place for place, task in enumerate(frames.task_order(rows["task"]))}
    return rows.sort_values("task", key=lambda column: column.map(order), kind="stable")


def ordered(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows by network, then by task in the usual order; the order is stable otherwise."""
    return _by_task(rows).sort_values("model", kind="stable")
