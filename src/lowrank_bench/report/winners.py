"""Winners by what they may look at: the best method for each kind of data, chosen and confirmed.

A method that reads training labels has an advantage over one that sees the weights alone, so
methods compete only with those that look at the same data. The best of many is better by chance as
well; it is therefore chosen on one half of the examples, and its drop is that on the other half.
"""

import pandas as pd

from lowrank_bench.report import frames
from lowrank_bench.report.table_files import Table
from lowrank_bench.report.table_parts import drop_cells, notes, number

FREE = "data-free"
TEXT = "with the training text"
LABELS = "with training labels"
INPUTS = "with training inputs"
COLUMNS = ["model", "data_access", "label", "method", "params", "data_used", "finetune_epochs"]
COLUMNS += ["compression", "half", "drop", "drop_ci_low", "drop_ci_high", "vs_svd", "vs_svd_p"]
COLUMNS += ["n_seeds", "n_examples", "note"]
GROUP = ["finetune_epochs", "compression", "data_access"]  # methods that compete


def data_access(data_used: str) -> str:
    """Return the most telling kind of data that a method looks at: labels, inputs, text or none.

    Parameters
    ----------
    data_used
        The column of this name of the score table.
    """
    if "labels" in data_used:
        return LABELS
    if "inputs" in data_used:
        return INPUTS
    return TEXT if "text" in data_used else FREE


def winners_table(halves: pd.DataFrame) -> Table:
    """Return the winner for each compression and kind of data.

    Parameters
    ----------
    halves
        The score table `halves`: averages over tasks on each half. The winner has the smallest
        drop on the selection half. Only methods that were scored on every task, on both halves,
        compete.
    """
    rows = frames.tidy(halves).assign(half=halves["half"].to_numpy())
    rows = rows[(rows["method"] != "dense") & rows["drop"].notna()]
    rows["data_access"] = rows["data_used"].map(data_access)
    rows = _complete(rows)
    shown = {
        model: pd.DataFrame([_winner(rivals, part) for _, rivals in part.groupby(GROUP, sort=True)])
        for model, part in rows.groupby("model")
    }
    return Table(
        name="winners_by_data",
        title="Winners by what they may look at",
        caption="For each kind of data that a method may look at, the one with the smallest "
        "average drop on the selection half of every split; its drop and that of svd, in points "
        "[95 % interval], on the confirmation half, which played no part in the choice"
        + frames.budget_clause(rows),
        long=rows[COLUMNS].sort_values(["model", "data_access", "compression", "half", "drop"]),
        sections=shown,
        notes=notes(rows.assign(panel="average")),
        empty="no average over tasks",
    )


def _complete(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of methods that were scored on all examples of both halves."""
    whole = rows["n_examples"] == rows.groupby(["model", "half"])["n_examples"].transform("max")
    rows = rows[whole]
    cell = ["model", "series", "compression", "finetune_epochs"]
    return rows[rows.groupby(cell)["half"].transform("nunique") == rows["half"].nunique()]


def _winner(rivals: pd.DataFrame, everything: pd.DataFrame) -> dict[str, str]:
    """Return the line of the winner among `rivals`; `everything` holds svd, whatever it uses."""
    chosen = rivals[rivals["half"] == "selection"].sort_values("drop", kind="stable").iloc[0]
    confirmed = rivals[rivals["half"] == "confirmation"].sort_values("drop", kind="stable")
    rank = list(confirmed["series"]).index(chosen["series"]) + 1
    winner = confirmed[confirmed["series"] == chosen["series"]]
    same = (everything["compression"] == chosen["compression"]) & frames.is_baseline(everything)
    same &= everything["finetune_epochs"] == chosen["finetune_epochs"]
    svd = everything[same & (everything["half"] == "confirmation")]
    return {
        "compression": chosen["percent"],
        "data access": chosen["data_access"],
        "method": chosen["series"],
        "drop, selection": number(chosen["drop"], 2),
        "drop, confirmation": drop_cells(winner, 2)[0],
        "svd, confirmation": drop_cells(svd, 2)[0] if len(svd) else "",
        "rank, confirmation": f"{rank} of {len(confirmed)}",
    }
