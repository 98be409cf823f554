"""The table of means over the seeds of a checkpoint."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from lowrank_bench.score.comparison import POINTS, Row, mean
from lowrank_bench.score.scored_cell import IDENTITY

PLACE = (*(name for name in IDENTITY if name != "seed"), "split", "metric")
# Columns of a comparison that the summary leaves out: the interval of the value itself.
VALUE_INTERVAL = ("ci_low", "ci_high")


def summary_records(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Average rows over seeds.

    Parameters
    ----------
    rows
        Rows of the table of scores, averages and rows without numbers included.

    Returns
    -------
    list of dict
        Columns of `schema.SUMMARY`. Means, intervals and tests are over the seeds that could be
        scored, all of them on the same resamples and swaps of the examples. The comparison with
        the dense network or the baseline is empty if any of these seeds lacks it. A row that
        could not be scored for any seed has `n_seeds` 0; `note` names the seeds that are missing.
    """
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(row.meta.get(name) for name in PLACE)].append(row)
    return [_record(members) for members in groups.values()]


def _record(rows: Sequence[Row]) -> dict[str, Any]:
    scored = [row for row in rows if row.comparison]
    record = {name: rows[0].meta.get(name) for name in (*PLACE, "label", "data_used", "budget")}
    record |= {"n_seeds": len(scored), "note": _note(rows, scored)}
    if not scored:
        return record
    comparisons = [row.comparison for row in scored if row.comparison]
    numbers = mean(comparisons).columns()
    record |= {name: value for name, value in numbers.items() if name not in VALUE_INTERVAL}
    # A spread needs the drop of every seed, and at least two.
    drops = [POINTS * drop.value for one in comparisons if (drop := one.drop())]
    if len(drops) == len(scored) > 1:
        record["drop_seed_std"] = float(np.std(drops, ddof=1))
    achieved = [row.meta.get("achieved_compression") for row in scored]
    known = [value for value in achieved if value is not None]
    if len(known) == len(achieved):
        record["achieved_compression"] = float(np.mean(known))
    record["n_examples"] = scored[0].meta["n_examples"]
    return record


def _note(rows: Sequence[Row], scored: Sequence[Row]) -> str:
    """Return which seeds are missing, and why, then the distinct notes of the others."""
    parts = []
    lost = [row for row in rows if not row.comparison]
    if lost:
        lacking = ", ".join(f"seed {row.meta.get('seed')} {row.meta['status']}" for row in lost)
        parts.append(f"{len(scored)} of {len(rows)} seeds: {lacking}")
    notes = dict.fromkeys(row.meta.get("note") or "" for row in scored or rows)
    return "; ".join([*parts, *filter(None, notes)])
