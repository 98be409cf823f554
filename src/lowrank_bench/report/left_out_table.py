"""What the target of an experiment reaches of each network, and what it leaves out and why."""

import json
from typing import Any

import pandas as pd

from lowrank_bench.report import frames
from lowrank_bench.report.table_files import Table
from lowrank_bench.report.table_parts import number

COLUMNS = ["model", "target", "part", "reason", "modules", "parameters", "share", "note"]
REST = "normalisations and single vectors"
UNKNOWN, UNRECORDED = "all the rest", "not recorded by that run"


def left_out_table(scores: pd.DataFrame, summary: pd.DataFrame) -> Table:
    """Return the parts of every network: what is compressed, what is not, and why.

    Parameters
    ----------
    scores, summary
        Tidied; only the scores of the dense networks are read.
    """
    dense = scores[frames.as_trained(scores) & (scores["network_parameters_dense"] > 0)]
    notes = frames.note_lines(dense.assign(panel=dense["task"].map(frames.task_title)))
    # One checkpoint stands for all: only the outputs of the head differ between tasks.
    dense = dense.sort_values("left_out", ascending=False, kind="stable")
    dense = dense.drop_duplicates(["model", "target"]).sort_values(["model", "target"])
    records = [part for row in dense.to_dict("records") for part in _parts(row)]
    long = pd.DataFrame(records, columns=COLUMNS)
    return Table(
        name="left_out",
        title="What the target leaves out",
        caption="Parameters of each network by what the compression reaches, and why it does not "
        "reach the rest; of one checkpoint, since only the outputs differ between tasks",
        long=long,
        sections={model: _section(part) for model, part in long.groupby("model")},
        notes=notes,
        empty="no dense network was evaluated",
    )


def _parts(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the parts of one network, which add up to its parameters."""
    whole, target = int(row["network_parameters_dense"]), row["target"]
    listed = json.loads(row["left_out"]) if row["left_out"] else []
    reached = {"kind": f"{frames.LAYERS.get(target, target)} (compressed)"}
    entries = [reached | {"parameters": int(row["parameters_dense"])}, *listed]
    rest = whole - sum(entry["parameters"] for entry in entries)
    if rest:
        why = {"kind": REST} if row["left_out"] else {"kind": UNKNOWN, "reason": UNRECORDED}
        entries.append(why | {"parameters": rest})
    return [
        {
            "model": row["model"],
            "target": target,
            "part": entry["kind"],
            "reason": entry.get("reason", ""),
            "modules": entry.get("modules"),
            "parameters": entry["parameters"],
            "share": entry["parameters"] / whole,
            "note": row["note"],
        }
        for entry in entries
    ]


def _section(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "part": rows["part"],
            "reason": rows["reason"],
            "modules": rows["modules"].map(lambda value: number(value, 0)),
            "parameters": rows["parameters"].map("{:,}".format),
            "share, %": rows["share"].map(lambda share: f"{100 * share:.1f}"),
        }
    )
