"""The answers to claims, and a paper's numbers beside ours."""

from collections.abc import Hashable
from typing import Any

import pandas as pd

from lowrank_bench.report import frames
from lowrank_bench.report.table_files import Table
from lowrank_bench.report.table_parts import interval, number

ORDER = ("yes", "indistinguishable", "no", "not run")


def claims_table(claims: pd.DataFrame) -> Table:
    """Return the claims that an experiment answers, those of each paper together.

    Parameters
    ----------
    claims
        The score table of this name (`score.claims.CLAIMS`).
    """
    counts = claims["answer"].value_counts()
    counted = ", ".join(f"{counts[answer]} {answer}" for answer in ORDER if answer in counts)
    return Table(
        name="claims",
        title="Claims",
        caption="Difference of the scores of two series in points [95 % interval, paired bootstrap "
        "over examples], mean over networks, tasks, seeds and rates; yes or no: two-sided p < 0.05 "
        f"after Holm's correction over the claims of a paper ({counted})",
        long=claims,
        sections={paper: _claims(rows) for paper, rows in claims.groupby("paper", sort=False)},
        notes=_notes(claims),
        empty="no claim is about this experiment",
    )


def _claims(rows: pd.DataFrame) -> pd.DataFrame:
    shown = rows.to_dict("records")
    return pd.DataFrame(
        {
            "claim": rows["text"],
            "answer": rows["answer"],
            "difference": [
                interval(row["estimate"], row["ci_low"], row["ci_high"], 2, sign=True)
                for row in shown
            ],
            "more than": rows["margin"].map(lambda value: number(value, 2)),
            "p": rows["p_holm"].map(lambda value: number(value, 4)),
            "rates": rows["rates"],
            "pairs": rows["n_pairs"],
            "seeds": rows["n_seeds"],
            "examples": rows["n_examples"],
            "reason": rows["reason"],
        }
    )


def _notes(rows: pd.DataFrame) -> list[str]:
    """Return the distinct notes on the data, synthetic ones first."""
    notes = {note for text in rows["note"] if text for note in str(text).split("; ")}
    return sorted(notes, key=lambda note: (not frames.is_synthetic(note), note))


def papers_table(papers: pd.DataFrame) -> Table:
    """Return the numbers of papers beside ours.

    Parameters
    ----------
    papers
        The score table `paper_vs_ours` (`score.papers.PAPERS`).
    """
    run = papers[papers["ours"].notna()]
    missing = papers.loc[papers["ours"].isna(), ["paper", "network", "method"]].drop_duplicates()
    more = f"; {len(missing)} of their series were not run here: see the csv file"
    return Table(
        name="paper_vs_ours",
        title="Papers and ours",
        caption="What a paper states and what this experiment measures, points or percent as "
        "the paper counts [95 % interval]" + (more if len(missing) else ""),
        long=papers,
        sections={paper: _papers(rows) for paper, rows in run.groupby("paper", sort=False)},
        empty="nothing was run that a paper has a number for",
    )


def _papers(rows: pd.DataFrame) -> pd.DataFrame:
    shown = rows.to_dict("records")
    return pd.DataFrame(
        {
            "network": rows["network"],
            "task": rows["task"].map(frames.task_title),
            "method": rows["method"],
            "what": [_what(row) for row in shown],
            "paper": [
                ("<= " if row["at_most"] else "") + number(row["stated"], 2) for row in shown
            ],
            "ours": [interval(row["ours"], row["ci_low"], row["ci_high"], 2) for row in shown],
            "unit": rows["unit"],
            "our network": rows["model"],
            "our series": rows["label"],
            "seeds": rows["n_seeds"].map(lambda value: number(value, 0)),
            "differs": rows["differs"],
        }
    )


def _what(row: dict[Hashable, Any]) -> str:
    if row["kind"] == "saving":
        return "saved at half a point"
    return f"lost at {100 * row['rate']:g} % fewer {row['rate_of']}"
