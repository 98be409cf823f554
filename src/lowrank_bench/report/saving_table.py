"""The largest saving at half a point: how small a network gets before it loses accuracy."""

import pandas as pd

from lowrank_bench.report import frames
from lowrank_bench.report.table_files import Table
from lowrank_bench.report.table_parts import drop_cells, number

TOLERANCE = 0.5  # points; named in the caption of a table without rows
NUMBERS = ("parameter_reduction", "macs_reduction", "choice_drop", "tolerance")


def saving_table(savings: pd.DataFrame) -> Table:
    """Return the drop and the parameters and multiply-adds saved by each network and method.

    Parameters
    ----------
    savings
        The score table `saving_at_half_a_point`.
    """
    rows = frames.tidy(savings)
    for name in NUMBERS:
        rows[name] = savings[name].to_numpy() if name in savings else float("nan")
    keys = ["model", "task", "finetune_epochs", "parameter_reduction"]
    rows = rows.sort_values(keys, ascending=[True, True, True, False], na_position="last")
    tolerance = rows["tolerance"].max() if len(rows) else TOLERANCE
    return Table(
        name="saving_at_half_a_point",
        title="Largest saving at half a point",
        caption=f"Largest saving whose drop on held-out rows is at most {tolerance:g} points; "
        "drop [95 % interval] on the reported split; parameters and multiply-adds saved, of the "
        "whole network" + _limited(rows),
        long=rows[[*savings.columns]],
        sections={model: _section(part) for model, part in rows.groupby("model")},
        notes=list(dict.fromkeys(note for note in rows["note"] if note)),
        empty="no task has a split on which the compression is chosen",
    )


def _limited(rows: pd.DataFrame) -> str:
    unit = frames.budget_unit(rows)
    return f"; what the methods limited: {unit}" if unit else ""


def _section(rows: pd.DataFrame) -> pd.DataFrame:
    none = rows["compression"].isna()
    shown = pd.DataFrame(
        {
            "task": rows["task"].map(frames.task_title),
            "method": rows["series"],
            "epochs after": rows["finetune_epochs"].map(lambda value: number(value, 0)),
            "drop": drop_cells(rows, 2),
            "parameters saved, %": rows["parameter_reduction"].map(lambda value: number(value, 1)),
            "multiply-adds saved, %": rows["macs_reduction"].map(lambda value: number(value, 1)),
        }
    )
    return shown.assign(drop=shown["drop"].where(~none, "none within"))
