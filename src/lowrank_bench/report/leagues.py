"""Which method wins among those that look at the same things, chosen and confirmed apart."""

import pandas as pd

from lowrank_bench.report import frames
from lowrank_bench.report.table_files import Table
from lowrank_bench.report.table_parts import drop_cells, notes, number

FREE = "data-free"
TEXT = "with the training text"
LABELS = "with training labels"
INPUTS = "with training inputs"
COLUMNS = ["model", "league", "label", "method", "params", "data_used", "finetune_epochs"]
COLUMNS += ["compression", "half", "drop", "drop_ci_low", "drop_ci_high", "vs_svd", "vs_svd_p"]
COLUMNS += ["n_seeds", "n_examples", "note"]


def league(data_used: str) -> str:
    """Return the league of a method by what it looks at."""
    if "labels" in data_used:
        return LABELS
    if "inputs" in data_used:
        return INPUTS
    return TEXT if "text" in data_used else FREE


def leagues_table(halves: pd.DataFrame) -> Table:
    """Return the winner of each league and compression.

    Parameters
    ----------
    halves
        Averages over tasks on each half, as `score.halves.score_halves` returns them. The winner
        has the least drop on the selection half; the drops shown are those on the other one.
        Only methods that were scored on every task, on both halves, compete.
    """
    rows = frames.tidy(halves).assign(half=halves["half"].to_numpy())
    rows = rows[(rows["method"] != "dense") & rows["drop"].notna()]
    rows["league"] = rows["data_used"].map(league)
    rows = _complete(rows)
    shown = {
        model: pd.DataFrame(
            [
                _winner(part, own)
                for (_, _, _), part in own.groupby(
                    ["finetune_epochs", "compression", "league"], sort=True
                )
            ]
        )
        for model, own in rows.groupby("model")
    }
    return Table(
        name="leagues",
        title="Winners",
        caption="Method with the least average drop on the selection half of every split, among "
        "those that look at the same things; its drop and that of svd, points [95 % interval], on "
        "the other half, which chose nothing" + frames.budget_clause(rows),
        long=rows[COLUMNS].sort_values(["model", "league", "compression", "half", "drop"]),
        sections=shown,
        notes=notes(rows.assign(panel="average")),
        empty="no average over tasks",
    )


def _complete(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of methods whose averages are over as many examples as any."""
    whole = rows["n_examples"] == rows.groupby(["model", "half"])["n_examples"].transform("max")
    rows = rows[whole]
    cell = ["model", "series", "compression", "finetune_epochs"]
    return rows[rows.groupby(cell)["half"].transform("nunique") == rows["half"].nunique()]


def _winner(part: pd.DataFrame, everything: pd.DataFrame) -> dict[str, str]:
    chosen = part[part["half"] == "selection"].sort_values("drop", kind="stable").iloc[0]
    own = part[(part["half"] == "confirmation") & (part["series"] == chosen["series"])]
    others = part[part["half"] == "confirmation"].sort_values("drop", kind="stable")
    place = list(others["series"]).index(chosen["series"]) + 1
    same = (everything["compression"] == chosen["compression"]) & frames.is_baseline(everything)
    same &= everything["finetune_epochs"] == chosen["finetune_epochs"]
    svd = everything[same & (everything["half"] == "confirmation")]
    return {
        "compression": chosen["percent"],
        "league": chosen["league"],
        "method": chosen["series"],
        "drop, selection": number(chosen["drop"], 2),
        "drop, confirmation": drop_cells(own, 2)[0],
        "svd, confirmation": drop_cells(svd, 2)[0] if len(svd) else "",
        "place there": f"{place} of {len(others)}",
    }
