"""The largest saving at half a point: chosen on a held-out split, reported on another.

Papers on CNNs list the largest reduction of parameters whose drop is at most half a point, and
choose and report it on the test set. Here the rows on which the compression is chosen are not
those on which it is reported.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

TOLERANCE = 0.5  # points
SERIES = ["experiment", "model", "task", "method", "params", "label", "data_used", "target"]
SERIES += ["budget", "finetune_epochs"]
SIZES = ["network_parameters_dense", "network_parameters_kept", "macs_dense", "macs_kept"]
DROPS = ["drop", "drop_ci_low", "drop_ci_high"]


def choice_splits(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """Return the split to choose on and the split to report, for each task that has both."""
    pairs: dict[str, tuple[str, str]] = {}
    for name, task in tasks.items():
        choice = [split["split"] for split in task["evaluation"] if split["choice"]]
        others = [split["split"] for split in task["evaluation"] if not split["choice"]]
        if choice and others:
            pairs[name] = (choice[0], others[0])
    return pairs


def largest_savings(
    scores: pd.DataFrame,
    tasks: Mapping[str, Mapping[str, Any]],
    pairs: Mapping[str, tuple[str, str]],
    tolerance: float = TOLERANCE,
) -> pd.DataFrame:
    """Return one row for each network, task, method and number of epochs after compression.

    Only cells whose whole network was compressed take part.

    Parameters
    ----------
    scores
        Columns of `score.schema.SCORES`. Each task counts by its headline metric, averaged over
        seeds.
    tasks
        The tasks' configurations.
    pairs
        From the name of each task that takes part to the split to choose on and the split to
        report.
    tolerance
        Largest drop on the split to choose on, in points.

    Returns
    -------
    DataFrame
        The columns of `SERIES`; `compression` asked, NaN where none was within the tolerance;
        `choice_drop` on the split to choose on; `split`, `value`, `dense_value` and `drop` with
        its interval (the mean of the seeds' intervals) on the reported one;
        `parameter_reduction` and `macs_reduction` of the whole network, percent; `n_seeds`,
        `note`.
    """
    rows = scores[(scores["status"] == "ok") & (scores["method"] != "dense")]
    # Multiply-adds are counted where a whole network is compressed, not for an embedding.
    rows = rows[rows["macs_dense"].notna()]
    records = []
    for task, (choice, reported) in pairs.items():
        metric = tasks[task]["evaluation"][0]["metrics"][0]
        cells = rows[(rows["task"] == task) & (rows["metric"] == metric)]
        for series, part in cells.groupby(SERIES, sort=False, dropna=False):
            saving = _largest(part, choice, reported, tolerance)
            records.append(dict(zip(SERIES, series, strict=True)) | {"metric": metric} | saving)
    return pd.DataFrame(records)


def _largest(part: pd.DataFrame, choice: str, reported: str, tolerance: float) -> dict[str, Any]:
    """Return what is reported of one series at its largest compression within the tolerance."""
    # Choose on one split by the mean over seeds; report another split's rows.
    means = part.groupby(["split", "compression"])
    drops = means["drop"].mean().get(choice, pd.Series(dtype=float)).dropna()
    within = drops[drops <= tolerance]
    record: dict[str, Any] = {"tolerance": tolerance, "split": reported, "note": ""}
    if within.empty:
        return record | {"compression": float("nan")}
    compression = within.index.max()
    # From here on only rows that had no part in the choice.
    cells = part[(part["compression"] == compression) & (part["split"] == reported)]
    sizes = cells[SIZES].mean()
    return record | {
        "compression": compression,
        "achieved_compression": cells["achieved_compression"].mean(),
        "choice_drop": within[compression],
        **cells[["value", "dense_value", *DROPS]].mean().to_dict(),
        "parameter_reduction": 100 * (1 - sizes.iloc[1] / sizes.iloc[0]),
        "macs_reduction": 100 * (1 - sizes.iloc[3] / sizes.iloc[2]),
        "n_seeds": cells["seed"].nunique(),
        "note": "; ".join(dict.fromkeys(cells["note"].dropna())),
    }
