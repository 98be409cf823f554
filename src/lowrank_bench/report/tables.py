"""All tables of an experiment."""

from pathlib import Path

import pandas as pd

from lowrank_bench.report import frames
from lowrank_bench.report.claims_table import claims_table, papers_table
from lowrank_bench.report.costs import latency_table
from lowrank_bench.report.left_out_table import left_out_table
from lowrank_bench.report.names import TABLE_NAMES
from lowrank_bench.report.saving_table import saving_table
from lowrank_bench.report.table_files import Table, write_table
from lowrank_bench.report.table_parts import (
    drop_cells,
    gain_cells,
    notes,
    number,
    ordered,
    sections,
    with_averages,
)
from lowrank_bench.report.winners import winners_table

KEYS = ["model", "task", "split", "method", "params", "label", "target", "finetune_epochs"]
KEYS += ["budget", "compression", "achieved_compression", "metric"]
DROPS = ["drop", "drop_ci_low", "drop_ci_high"]
GAINS = ["vs_svd", "vs_svd_ci_low", "vs_svd_ci_high", "vs_svd_p"]
MAJORITY = "majority_value"  # metric of always predicting the most frequent class; optional


def write_tables(
    scores: pd.DataFrame,
    summary: pd.DataFrame,
    folder: Path,
    halves: pd.DataFrame | None = None,
    saving_at_half_a_point: pd.DataFrame | None = None,
    latency: pd.DataFrame | None = None,
    claims: pd.DataFrame | None = None,
    paper_vs_ours: pd.DataFrame | None = None,
) -> list[Path]:
    """Write every table of an experiment as csv, md and tex.

    The csv files hold every metric in full precision, one in each row. The other files have a part
    for each network, with the headline metric of each task as in the figures, and the notes on
    the data.

    Parameters
    ----------
    scores, summary
        The score tables of these names.
    folder
        Results folder of the experiment; the tables are written into its `tables/`.
    halves, saving_at_half_a_point
        Averages on two halves of the data, and the largest savings that cost at most half a
        point, if the experiment has them.
    latency
        The table `latency`, if the experiment measured it.
    claims, paper_vs_ours
        The answers to claims, and the numbers of papers, if there are any for the experiment.

    Returns
    -------
    list of Path
        `folder / name` for every name of `names.table_names()`, in that order.
    """
    scores, summary = frames.tidy(scores), frames.tidy(summary)
    makers = {
        "dense": dense_table,
        "drop": drop_table,
        "average": average_table,
        "versus_svd": versus_svd_table,
        "left_out": left_out_table,
        "status": status_table,
    }
    place = Path(folder) / "tables"
    tables = [makers[name](scores, summary) for name in TABLE_NAMES]
    tables += [] if halves is None else [winners_table(halves)]
    savings = saving_at_half_a_point
    tables += [] if savings is None else [saving_table(savings)]
    tables += [] if latency is None else [latency_table(latency)]
    tables += [] if claims is None else [claims_table(claims)]
    tables += [] if paper_vs_ours is None else [papers_table(paper_vs_ours)]
    return [path for table in tables for path in write_table(table, place)]


def dense_table(scores: pd.DataFrame, summary: pd.DataFrame) -> Table:
    """Return the scores of the networks as trained, one metric in each row."""
    keys = ["model", "task", "split", "metric"]
    rows = summary[
        (summary["metric"] != "") & summary[["dense_value", "value"]].notna().any(axis=1)
    ]
    rows = rows.assign(after=~frames.as_trained(rows)).sort_values("after", kind="stable")
    rows = ordered(rows.drop_duplicates(keys))
    rows = rows.assign(dense_value=rows["dense_value"].fillna(rows["value"]))
    rows, extra = _with_majority(rows, [scores, summary], keys)
    nothing = [float("nan")] * len(rows)
    shown = pd.DataFrame(
        {
            "task": rows["task"].map(frames.task_title),
            "split": rows["split"].map(frames.short_split),
            "metric": rows["metric"].map(lambda name: frames.METRICS.get(name, name)),
            "score": rows["dense_value"].map(lambda value: number(value, 2)),
            "majority class": [number(value, 2) for value in rows.get(MAJORITY, nothing)],
            "examples": rows["n_examples"].map(lambda value: number(value, 0)),
            "seeds": rows["n_seeds"].map(lambda value: number(value, 0)),
        }
    )
    shown = shown if extra else shown.drop(columns="majority class")
    return Table(
        name="dense",
        title="Dense networks",
        caption="Scores in points of the networks as trained, mean over seeds",
        long=rows[[*keys, "dense_value", *extra, "n_seeds", "n_examples", "note"]],
        sections={name: shown.loc[part.index] for name, part in rows.groupby("model")},
        notes=notes(rows.assign(panel=shown["task"], series="", percent="")),
        empty="no dense score: no cell was evaluated",
    )


def _with_majority(
    rows: pd.DataFrame, sources: list[pd.DataFrame], keys: list[str]
) -> tuple[pd.DataFrame, list[str]]:
    """Return rows with the score of the majority class if a source has it, and its column."""
    for source in sources:
        if MAJORITY in source:
            means = source.groupby(keys, as_index=False)[MAJORITY].mean()
            rows = rows.drop(columns=MAJORITY, errors="ignore")
            return rows.merge(means, "left", keys), [MAJORITY]
    return rows, []


def drop_table(scores: pd.DataFrame, summary: pd.DataFrame) -> Table:
    """Return the drops of every task, metric and average."""
    rows = with_averages(summary, "drop")
    long = summary[~frames.as_trained(summary) & summary["drop"].notna()]
    columns = [*KEYS, "value", "dense_value", *DROPS, "drop_seed_std", "n_seeds", "n_examples"]
    return Table(
        name="drop",
        title="Drop",
        caption="Points lost against the dense network [95 % interval, paired bootstrap over "
        "examples], negative: a gain; one metric per task, all of them in the csv file"
        + frames.budget_clause(summary),
        long=ordered(long)[[*columns, "note"]],
        sections=sections(rows.assign(cell=drop_cells(rows)), scores),
        notes=notes(rows),
        empty="no drop: no cell was evaluated",
    )


def average_table(scores: pd.DataFrame, summary: pd.DataFrame) -> Table:
    """Return the averages over the GLUE tasks: drop, and gain over SVD at the same budget."""
    rows = with_averages(summary, "drop")
    rows = rows[rows["task"].isin(frames.AVERAGES)]
    gains = rows[~frames.is_baseline(rows) & rows["vs_svd"].notna()]
    parts = [
        rows.assign(panel="drop, " + rows["panel"], cell=drop_cells(rows, 2)),
        gains.assign(panel="gain over svd, " + gains["panel"], cell=gain_cells(gains, 2)),
    ]
    return Table(
        name="average",
        title="Average over tasks",
        caption="Mean over the tasks, each the mean of its metrics, in points [95 % interval]; "
        "* p < 0.05 against svd at the same budget, not corrected for the number of tests"
        + frames.budget_clause(rows),
        long=ordered(rows)[[*KEYS, *DROPS, *GAINS, "n_seeds", "note"]],
        sections=sections(pd.concat(parts), None),
        notes=notes(rows),
        empty=frames.no_average(scores, summary),
    )


def versus_svd_table(scores: pd.DataFrame, summary: pd.DataFrame) -> Table:
    """Return the points gained over SVD at the same budget, with intervals and p-values."""
    compared = summary[~frames.as_trained(summary) & ~frames.is_baseline(summary)]
    compared = compared[compared["vs_svd"].notna()]
    rows = with_averages(compared, "vs_svd")
    return Table(
        name="versus_svd",
        title="Gain over svd at the same budget",
        caption="Points [95 % interval, paired bootstrap over examples], positive: better than "
        "svd; * p < 0.05, two-sided paired permutation test, not corrected for the number of tests"
        + frames.budget_clause(compared),
        long=ordered(compared)[[*KEYS, *GAINS, "n_seeds", "n_examples", "note"]],
        sections=sections(rows.assign(cell=gain_cells(rows)), scores[~frames.is_baseline(scores)]),
        notes=notes(rows),
        empty="no cell has svd at the same budget",
    )


def status_table(scores: pd.DataFrame, summary: pd.DataFrame) -> Table:
    """Return the cells that failed or were skipped, on all or one of their splits, and why."""
    cells = scores[~scores["task"].isin(frames.AVERAGES)].drop_duplicates(list(frames.CELL))
    lost = frames.lost_cells(scores)
    partly = int((~lost["wholly"]).sum())
    more = f", {partly} more on some of their splits" if partly else ""
    splits = ordered(frames.lost_cells(scores, [*frames.CELL, "split"]))
    columns = ["model", "task", "split", "label", "method", "params", "target", "compression"]
    columns += ["seed", "finetune_epochs", "status", "reason", "note"]
    return Table(
        name="status",
        title="Cells without a score",
        caption=f"{len(lost) - partly} of {len(cells)} cells failed or were skipped{more}"
        + frames.budget_clause(lost),
        long=splits[columns],
        sections={name: _by_reason(part) for name, part in splits.groupby("model")},
        notes=frames.note_lines(splits.assign(panel=splits["task"].map(frames.task_title))),
        empty="every cell was evaluated" if len(cells) else "the experiment has no cell",
    )


def _by_reason(lost: pd.DataFrame) -> pd.DataFrame:
    """Merge the cells of one network that were lost for the same reason into one row."""
    cells = pd.DataFrame(
        {
            "status": lost["status"],
            "reason": lost["reason"],
            "method": lost["series"],
            "compression": lost["percent"].where(~frames.as_trained(lost), ""),
            "tasks": lost["task"].map(frames.task_title),
            "splits": lost["split"].map(frames.short_split),
            "seeds": lost["seed"].map(lambda value: number(value, 0)),
        }
    )
    keys = ["status", "reason", "method", "compression"]
    groups = cells.groupby(keys, sort=False)
    rows = groups.agg(lambda names: ", ".join(dict.fromkeys(names))).reset_index()
    one = cells["tasks"] + " " + cells["seeds"]  # a cell of several splits counts once
    rows["cells"] = cells.assign(one=one).groupby(keys, sort=False)["one"].nunique().to_numpy()
    return rows.astype(str)
