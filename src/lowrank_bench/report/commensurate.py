"""The largest reductions that cost at most half a point, as the papers on CNNs list them."""

import pandas as pd

from lowrank_bench.report import frames
from lowrank_bench.report.table_files import Table
from lowrank_bench.report.table_parts import drop_cells, number


def commensurate_table(found: pd.DataFrame) -> Table:
    """Return drop, reduction of parameters and of multiply-adds for each network and method.

    Parameters
    ----------
    found
        As `score.commensurate.commensurate` returns it.
    """
    rows = frames.tidy(found)
    for name in ("parameter_reduction", "macs_reduction", "choice_drop", "tolerance"):
        rows[name] = found[name].to_numpy() if name in found else float("nan")
    keys = ["model", "task", "finetune_epochs", "parameter_reduction"]
    rows = rows.sort_values(keys, ascending=[True, True, True, False], na_position="last")
    tolerance = f"{rows['tolerance'].max():g}" if len(rows) else "0.5"
    return Table(
        name="commensurate",
        title="Largest reduction at a small drop",
        caption=f"Largest reduction whose drop on the held-out rows is at most {tolerance} points; "
        "drop [95 % interval] on the reported split, reductions of the whole network's parameters "
        "and multiply-adds" + _budget(rows),
        long=rows[[*found.columns]],
        sections={model: _section(part) for model, part in rows.groupby("model")},
        notes=list(dict.fromkeys(note for note in rows["note"] if note)),
        empty="no task has a split that chooses",
    )


def _budget(rows: pd.DataFrame) -> str:
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
