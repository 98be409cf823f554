"""Answers to claims: is the score of one series above that of another by more than a margin?

A claim is a contrast of two series on the same networks, tasks, seeds and rates. Its estimate is
the mean over all of these of the difference of the tasks' scores (`averages`), its interval the
paired bootstrap's. The p-value is that of the paired permutation test where the margin is zero,
and otherwise of the bootstrap, whose draws are shifted by the margin; both are two-sided. P-values
of one paper's claims are corrected together by Holm's method (Scandinavian Journal of Statistics 6,
1979), so that the chance of any wrong yes or no among them is at most 5 %.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lowrank_bench.errors import LowRankError
from lowrank_bench.score.comparison import POINTS, Comparison, mean
from lowrank_bench.score.metrics import METRICS
from lowrank_bench.score.paired_test import p_value
from lowrank_bench.score.scored_cell import (
    BUDGET,
    CHECKPOINT,
    DENSE,
    ScoredCell,
    has_parameters,
    plain_task,
)
from lowrank_bench.score.split_scores import Split, Statistics, score_split

LEVEL = 0.05
YES, NO, EQUAL, NOT_RUN = "yes", "no", "indistinguishable", "not run"
# Columns of the table `claims`, one claim a row.
CLAIMS = {
    "experiment": "name of the experiment",
    "paper": "whose claim it is: a paper of conf/reference, or suite",
    "claim": "its name in conf/claims.yaml",
    "text": "the claim in words",
    "place": "where it is made",
    "first": "the series that should score higher, as shown in figures",
    "second": "the series that it is compared with",
    "margin": "by more than so many points",
    "rates": "compressions that both series were run at",
    "models": "networks",
    "tasks": "tasks",
    "estimate": "score of first - score of second, mean over all of these, points",
    "ci_low": "lower end of its 95 % paired bootstrap interval",
    "ci_high": "upper end of that interval",
    "p": "two-sided p-value of estimate = margin",
    "p_holm": "the same, corrected for all claims of the paper in this table",
    "n_pairs": "pairs of cells",
    "n_seeds": "seeds",
    "n_examples": "examples of all tasks together",
    "answer": "yes, no, indistinguishable, or not run",
    "reason": "why it was not run, or how many pairs it lacks",
    "note": "what is not standard about the data",
}
Pair = tuple[ScoredCell, ScoredCell]


def answer_claims(
    cells: Sequence[ScoredCell],
    claims: Mapping[str, Mapping[str, Any]],
    splits: Sequence[Split],
    statistics: Statistics,
) -> pd.DataFrame:
    """Answer every claim from the cells of an experiment.

    Parameters
    ----------
    cells
        Every cell, dense networks and failed ones included.
    claims
        From name to `text`, `paper`, `where`, `first`, `second` (each `method` and `params`),
        `target`, `margin`, `rates`, `models`, `tasks` and `trained`, as in conf/claims.yaml.
    splits
        The splits that count for a task's score, with labels.
    statistics
        Numbers of draws and their seed, as for the scores.

    Returns
    -------
    pandas.DataFrame
        The columns of `CLAIMS`. A claim whose series were not run, or that names more than one
        series, is a row with the reason.
    """
    pairs: dict[str, list[Pair]] = {}
    faults: dict[str, str] = {}
    for name, claim in claims.items():
        try:
            pairs[name] = _pairs(cells, claim)
        except LowRankError as error:
            faults[name] = str(error)
    compared = _compared(pairs, splits, statistics)
    rows = []
    for name, claim in claims.items():
        scored = compared.get(name, {})
        if name not in faults and not scored:
            faults[name] = "no pair of cells could be scored"
        kept = [pair for pair in pairs.get(name, ()) if id(pair) in scored]
        row = _described(name, claim, kept, splits)
        if lost := len(pairs.get(name, ())) - len(kept):
            row["reason"] = f"{lost} of {lost + len(kept)} pairs could not be scored"
        rows.append(row | (_answered(claim, scored) if scored else {"reason": faults[name]}))
    return _corrected(pd.DataFrame(rows, columns=list(CLAIMS)))


def _pairs(cells: Sequence[ScoredCell], claim: Mapping[str, Any]) -> list[Pair]:
    """Return the cells of the two series at the same checkpoint, rate and training.

    Raises
    ------
    LowRankError
        When a side was not run, or stands for several series.
    """
    first, second = (_side(cells, claim[name], claim) for name in ("first", "second"))
    if claim["first"]["method"] == DENSE:  # one cell stands beside every rate of the other side
        return [(one, other) for other, one in _matched(second, first, CHECKPOINT)]
    return _matched(first, second, CHECKPOINT if claim["second"]["method"] == DENSE else BUDGET)


def _matched(
    cells: Sequence[ScoredCell], partners: Sequence[ScoredCell], columns: Sequence[str]
) -> list[Pair]:
    """Return the cells that have a partner with the same values of `columns`, with it."""
    known = {cell.key(columns): cell for cell in partners}
    return [(cell, known[key]) for cell in cells if (key := cell.key(columns)) in known]


def _side(
    cells: Sequence[ScoredCell], series: Mapping[str, Any], claim: Mapping[str, Any]
) -> list[ScoredCell]:
    """Return the cells that a side of a claim names, those without a score among them."""
    chosen = [cell for cell in cells if _is_meant(cell, series, claim)]
    words = _words(series)
    if not chosen:
        raise LowRankError(f"the experiment has no cell of {words} at these rates")
    several = {cell.meta["params"] for cell in chosen}
    if len(several) > 1:
        raise LowRankError(f"{words} stands for {len(several)} series; name more parameters")
    if all(cell.status != "ok" for cell in chosen):
        raise LowRankError(f"every cell of {words} failed: {chosen[0].reason}")
    return chosen


def _is_meant(cell: ScoredCell, series: Mapping[str, Any], claim: Mapping[str, Any]) -> bool:
    meta = cell.meta
    if meta["method"] != series["method"]:
        return False
    if (claim["models"] and meta["model"] not in claim["models"]) or (
        claim["tasks"] and plain_task(meta["task"]) not in claim["tasks"]
    ):
        return False
    if series["method"] == DENSE:
        return not meta.get("finetune_epochs")
    if meta["target"] != claim["target"]:
        return False
    trained = claim["trained"]
    if trained is not None and bool(meta.get("finetune_epochs")) != trained:
        return False
    rates = [round(float(rate), 6) for rate in claim["rates"]]
    return round(float(meta["compression"]), 6) in rates and has_parameters(
        meta["params"], series["params"]
    )


def _words(series: Mapping[str, Any]) -> str:
    params = ", ".join(f"{name}={value}" for name, value in series["params"].items())
    return f"{series['method']} ({params})" if params else str(series["method"])


def _compared(
    pairs: Mapping[str, Sequence[Pair]], splits: Sequence[Split], statistics: Statistics
) -> dict[str, dict[int, Comparison]]:
    """Return for every claim the comparison of each of its pairs, by the pair's identity."""
    parts: dict[str, dict[int, list[Comparison]]] = defaultdict(lambda: defaultdict(list))
    for split in splits:
        entries = [
            (name, pair)
            for name, listed in pairs.items()
            for pair in listed
            if pair[0].meta["task"] == split.task
            and all(split.problem(cell) is None for cell in pair)
        ]
        if not entries:
            continue
        seconds = {id(pair[1]): pair[1] for _, pair in entries}
        places = {key: len(entries) + number for number, key in enumerate(seconds)}
        every = [pair[0] for _, pair in entries] + list(seconds.values())
        partners = [places[id(pair[1])] for _, pair in entries] + [None] * len(seconds)
        scored = score_split(every, [None] * len(every), partners, split, statistics)
        for (name, pair), comparisons in zip(entries, scored, strict=False):
            kept = [
                comparison
                for metric, comparison in comparisons.items()
                if METRICS[metric].kind != "agreement"
            ]
            parts[name][id(pair)] += kept
    return {
        name: {key: mean(listed) for key, listed in of_pairs.items() if listed}
        for name, of_pairs in parts.items()
    }


def _described(
    name: str, claim: Mapping[str, Any], pairs: Sequence[Pair], splits: Sequence[Split]
) -> dict[str, Any]:
    """Return the columns that say what was compared."""
    metas = [cell.meta for pair in pairs for cell in pair]
    tasks = {meta["task"] for meta in metas}
    sizes = [len(s.references) for s in splits if s.task in tasks and s.references is not None]
    rates = {meta["compression"] for meta in metas if meta["method"] != DENSE}
    row: dict[str, Any] = {
        "paper": claim["paper"],
        "claim": name,
        "text": claim["text"],
        "place": claim["where"],
        "first": pairs[0][0].meta["label"] if pairs else _words(claim["first"]),
        "second": pairs[0][1].meta["label"] if pairs else _words(claim["second"]),
        "margin": float(claim["margin"]),
        "rates": ", ".join(f"{100 * rate:g} %" for rate in sorted(rates)),
        "models": ", ".join(dict.fromkeys(meta["model"] for meta in metas)),
        "tasks": ", ".join(dict.fromkeys(meta["task"] for meta in metas)),
        "n_pairs": len(pairs),
        "n_seeds": len({meta["seed"] for meta in metas}),
        "n_examples": sum(sizes),
        "answer": NOT_RUN,
        "reason": "",
        "note": "; ".join(dict.fromkeys(meta.get("note") or "" for meta in metas)).strip("; "),
    }
    return row | {"experiment": metas[0]["experiment"] if metas else ""}


def _answered(claim: Mapping[str, Any], scored: Mapping[int, Comparison]) -> dict[str, Any]:
    """Return estimate, interval and p-value of a claim."""
    whole = mean(list(scored.values()))
    assert whole.versus is not None  # every first cell has its second
    gain = whole.cell - whole.versus.sample
    low, high = gain.interval()
    margin = float(claim["margin"]) / POINTS
    p = _shifted_p(gain.draws - margin) if margin else p_value(gain.value, whole.versus.null)
    return {"estimate": POINTS * gain.value, "ci_low": low, "ci_high": high, "p": p}


def _shifted_p(draws: NDArray[np.float64]) -> float:
    """Return the two-sided bootstrap p-value of a mean of zero."""
    below = (1 + np.count_nonzero(draws <= 0)) / (1 + draws.size)
    above = (1 + np.count_nonzero(draws >= 0)) / (1 + draws.size)
    return float(min(1.0, 2 * min(below, above)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected by Holm's step-down method, in the order given.

    The i-th smallest of m is multiplied by m − i + 1, and none is below a smaller one's.
    """
    order = np.argsort(p_values, kind="stable")
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for place, number in enumerate(order.tolist()):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[number]))
        corrected[number] = largest
    return corrected


def _corrected(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with the claims of each paper corrected together, and answered."""
    for name in ("margin", "estimate", "ci_low", "ci_high", "p", "p_holm"):
        table[name] = table[name].astype(float)
    tested = table["p"].notna()
    for _, rows in table[tested].groupby("paper"):
        table.loc[rows.index, "p_holm"] = holm(rows["p"].tolist())
    clear = tested & (table["p_holm"] < LEVEL)
    table.loc[tested, "answer"] = EQUAL
    table.loc[clear & (table["estimate"] > table["margin"]), "answer"] = YES
    table.loc[clear & (table["estimate"] < table["margin"]), "answer"] = NO
    return table
