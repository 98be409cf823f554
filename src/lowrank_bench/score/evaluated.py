"""What is scored of a cell: its columns, its predictions, or the reason why it has none."""

from collections.abc import Mapping, Sequence
from typing import Any

from lowrank_bench.compression.savings import compression_of
from lowrank_bench.inputs.splits import unofficial
from lowrank_bench.problem import FLOAT_BYTES
from lowrank_bench.score.scored_cell import ScoredCell

# Whole networks are kept in float32, where their bytes are not counted by themselves.
SIZES = (
    "parameters_dense",
    "parameters_kept",
    "network_parameters_dense",
    "network_parameters_kept",
)


def evaluated_cell(
    meta: Mapping[str, Any], facts: Mapping[str, Any], predictions: Mapping[str, Any]
) -> ScoredCell:
    """Return a cell as it is scored.

    Parameters
    ----------
    meta
        Columns of `schema.SCORES` that the plan knows.
    facts
        What was measured of the cell: its record.
    predictions
        From split to logits.
    """
    achieved = facts.get("achieved_compression")  # where the budget is not of parameters
    if achieved is None:
        counts = (facts[name] for name in ("parameters_kept", "index_bits", "parameters_dense"))
        achieved = compression_of(*counts)
    sizes = {
        name.replace("parameters", "bytes"): FLOAT_BYTES * facts[name]
        for name in SIZES
        if name in facts
    }
    columns = {**sizes, **facts, **meta, "achieved_compression": achieved}
    return ScoredCell(columns, dict(predictions))


def note_on_data(
    task: Mapping[str, Any], splits: Mapping[str, Mapping[str, Any]], precision: str
) -> str:
    """Return what is not standard about the data that a result rests on.

    Parameters
    ----------
    task
        The task's configuration: `note`, `train`, `evaluation`, `modality`.
    splits
        For each split at hand its `rows`, `sha256` and `encoding`.
    precision
        Of the predictions: `fp32` or `bf16`.
    """
    train: Mapping[str, Any] = task["train"]
    evaluation: Sequence[Mapping[str, Any]] = task["evaluation"]
    notes = [task["note"]] if task["note"] else []
    if precision != "fp32":
        notes.append(f"evaluated in {precision}")
    for split in (train, *evaluation):
        facts = splits.get(split["split"])
        fault = unofficial(facts, split) if facts else ""
        if fault:
            notes.append(f"{split['split']} split not official: {fault}")
    rows = splits.get(train["split"], {}).get("rows", 0)
    if train["limit"] and train["limit"] < rows:
        used = "training text:" if task.get("modality") == "similarity" else "trained on"
        notes.append(f"{used} {train['limit']:,} of {rows:,} rows")
    return "; ".join(notes)
