"""A paper's numbers beside those of an experiment, and what differs between the two."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from lowrank_bench.score.scored_cell import has_parameters, plain_task

# Columns of the table `paper_vs_ours`, one number of a paper and one of our networks a row.
PAPERS = {
    "paper": "the paper: a file of conf/reference",
    "place": "where it states the number",
    "status": "stated there, or derived from what is stated",
    "network": "the paper's network",
    "task": "the paper's task; glue: the average",
    "method": "the method as the paper calls it",
    "kind": "drop: what is lost at a rate; saving: what is saved at a loss of half a point at most",
    "rate": "share that the paper saves",
    "rate_of": "parameters or macs",
    "epochs_after": "the paper's epochs of training after compression",
    "stated": "the paper's number",
    "at_most": "whether the paper gives a bound",
    "unit": "points, or percent (of the score, or of the parameters)",
    "model": "our network",
    "label": "our series",
    "our_rate": "the rate of ours that is nearest",
    "ours": "our number in the same unit",
    "ci_low": "lower end of its 95 % interval",
    "ci_high": "upper end of that interval",
    "n_seeds": "seeds",
    "differs": "what is not the same",
}


def paper_rows(
    papers: Mapping[str, Mapping[str, Any]],
    summary: pd.DataFrame,
    savings: pd.DataFrame | None,
) -> pd.DataFrame:
    """Return the numbers of papers that an experiment has something to set beside.

    Parameters
    ----------
    papers
        From name to `title`, `networks`, `stand_ins` and `numbers`, as in conf/reference.
    summary, savings
        The score tables `summary` and `saving_at_half_a_point`; None without the latter.

    Returns
    -------
    pandas.DataFrame
        The columns of `PAPERS`: for each number and each network that was run with its method, the
        nearest rate. Numbers that nothing stands beside have one row without ours.
    """
    records = []
    for name, paper in papers.items():
        for number in paper["numbers"]:
            source = summary if number["kind"] == "drop" else savings
            ours = [] if source is None else list(_beside(number, paper, source))
            theirs = _stated(name, number)
            records += [theirs | row for row in ours or [{"differs": "not run here"}]]
    return pd.DataFrame(records, columns=list(PAPERS))


def _stated(paper: str, number: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("status", "network", "task", "method", "kind", "rate", "rate_of", "at_most", "unit")
    return {
        "paper": paper,
        "place": number["where"],
        "epochs_after": str(number["epochs_after"]),
        "stated": number["value"],
        **{name: number[name] for name in kept},
    }


def _beside(
    number: Mapping[str, Any], paper: Mapping[str, Any], table: pd.DataFrame
) -> Iterator[dict[str, Any]]:
    """Yield what each of our networks has beside a number."""
    series = number["series"]
    network = number["network"]
    stands: Mapping[str, str] = dict.fromkeys(paper["networks"].get(network, ()), "")
    stands = {**stands, **paper["stand_ins"].get(network, {})}
    wanted = (table["method"] == series["method"]) & (table["budget"] == number["rate_of"])
    wanted &= table["model"].isin(list(stands)) & (table["task"].map(plain_task) == number["task"])
    rows = table[wanted]
    fits = rows["params"].map(lambda text: has_parameters(text, series["params"]))
    rows = rows[fits.astype(bool)]  # of no rows too
    value = "drop" if number["kind"] == "drop" else "parameter_reduction"
    rows = rows[rows[value].notna()] if value in rows else rows.head(0)
    for model, part in rows.groupby("model", sort=False):
        row = _nearest(part, number)
        ours, low, high = _numbers(row, number)
        yield {
            "model": model,
            "label": row["label"],
            "our_rate": row["compression"],
            "ours": ours,
            "ci_low": low,
            "ci_high": high,
            "n_seeds": row["n_seeds"],
            "differs": "; ".join(
                _differences(row, number, stands[str(model)], part["label"].nunique())
            ),
        }


def _nearest(rows: pd.DataFrame, number: Mapping[str, Any]) -> pd.Series:
    """Return the row of the same training and the nearest rate; of several series the best one."""
    wanted = number["epochs_after"]
    most = rows["finetune_epochs"].max()
    far = (rows["finetune_epochs"] - (most if wanted == "all" else wanted)).abs()
    rows = rows[far == far.min()]
    if number["kind"] == "drop":
        far = (rows["compression"] - number["rate"]).abs()
        return rows[far == far.min()].sort_values("drop", kind="stable").iloc[0]
    return rows.sort_values("parameter_reduction", ascending=False, kind="stable").iloc[0]


def _numbers(row: pd.Series, number: Mapping[str, Any]) -> tuple[float, float, float]:
    """Return our number and its interval in the unit of the paper's."""
    if number["kind"] == "saving":
        return float(row["parameter_reduction"]), float("nan"), float("nan")
    unit = 100 / row["dense_value"] if number["unit"] == "percent" else 1.0
    low, high = (float(row[name]) * unit for name in ("drop_ci_low", "drop_ci_high"))
    return float(row["drop"]) * unit, low, high


def _differences(
    row: pd.Series, number: Mapping[str, Any], stand_in: str, series: int
) -> Sequence[str]:
    """Return what is not as in the paper.

    Parameters
    ----------
    row
        Ours, the best of so many `series`.
    stand_in
        What our network is, if not the same.
    """
    parts = [stand_in] if stand_in else []
    parts += [f"best of {series} series here"] if series > 1 else []
    if number["kind"] == "drop" and abs(row["compression"] - number["rate"]) > 0.005:
        parts.append(f"{100 * row['compression']:g} % for {100 * number['rate']:g} %")
    wanted, had = number["epochs_after"], row["finetune_epochs"]
    if wanted == "all" or had != wanted:
        expected = "as many epochs as before" if wanted == "all" else f"{wanted} epochs"
        parts.append(f"{had:g} epochs after, in the paper {expected}")
    if number["kind"] == "saving":
        parts.append("chosen on other rows than reported")
    parts += [str(row["note"])] if isinstance(row["note"], str) and row["note"] else []
    return parts
