"""The largest compression that costs little: chosen on a held-out split, reported on another.

The "commensurate" tables of the papers on CNNs report the largest reduction of parameters whose
drop is at most half a point, both judged on the test set. Here the rows that choose are not those
that are reported.
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
    """Return for each task with a split that chooses: that split, and the one that is reported."""
    found: dict[str, tuple[str, str]] = {}
    for name, task in tasks.items():
        chooses = [split["split"] for split in task["evaluation"] if split["choice"]]
        others = [split["split"] for split in task["evaluation"] if not split["choice"]]
        if chooses and others:
            found[name] = (chooses[0], others[0])
    return found


def commensurate(
    scores: pd.DataFrame,
    tasks: Mapping[str, Mapping[str, Any]],
    pairs: Mapping[str, tuple[str, str]],
    tolerance: float = TOLERANCE,
) -> pd.DataFrame:
    """Return one row for each network, task, method and number of epochs after.

    Only cells whose whole network was compressed take part.

    Parameters
    ----------
    scores
        Columns of `score.schema.SCORES`; each task's headline metric counts, averaged over seeds.
    tasks
        The tasks' configurations.
    pairs
        For each task that takes part the split that chooses and the one that is reported.
    tolerance
        Largest drop on the split that chooses, in points.

    Returns
    -------
    DataFrame
        The series' columns; `compression` asked, NaN where no compression was within the
        tolerance; `choice_drop` on the split that chose; `split`, `value`, `dense_value` and
        `drop` with its interval (the mean of the seeds' intervals) on the reported one;
        `parameter_reduction` and `macs_reduction` of the whole network, percent; `n_seeds`,
        `note`.
    """
    rows = scores[(scores["status"] == "ok") & (scores["method"] != "dense")]
    rows = rows[rows["macs_dense"].notna()]
    found = []
    for task, (chooses, reported) in pairs.items():
        own = rows[rows["task"] == task]
        metric = tasks[task]["evaluation"][0]["metrics"][0]
        own = own[own["metric"] == metric]
        for series, part in own.groupby(SERIES, sort=False, dropna=False):
            chosen = _chosen(part, chooses, reported, tolerance)
            found.append(dict(zip(SERIES, series, strict=True)) | {"metric": metric} | chosen)
    return pd.DataFrame(found)


def _chosen(part: pd.DataFrame, chooses: str, reported: str, tolerance: float) -> dict[str, Any]:
    means = part.groupby(["split", "compression"])
    drops = means["drop"].mean().get(chooses, pd.Series(dtype=float)).dropna()
    good = drops[drops <= tolerance]
    facts: dict[str, Any] = {"tolerance": tolerance, "split": reported, "note": ""}
    if good.empty:
        return facts | {"compression": float("nan")}
    compression = good.index.max()
    cells = part[(part["compression"] == compression) & (part["split"] == reported)]
    sizes = cells[SIZES].mean()
    return facts | {
        "compression": compression,
        "achieved_compression": cells["achieved_compression"].mean(),
        "choice_drop": good[compression],
        **cells[["value", "dense_value", *DROPS]].mean().to_dict(),
        "parameter_reduction": 100 * (1 - sizes.iloc[1] / sizes.iloc[0]),
        "macs_reduction": 100 * (1 - sizes.iloc[3] / sizes.iloc[2]),
        "n_seeds": cells["seed"].nunique(),
        "note": "; ".join(dict.fromkeys(cells["note"].dropna())),
    }
