"""All score tables of one experiment, from its evaluated cells and the labels."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
from numpy.typing import NDArray

from lowrank_bench.score.chosen import chosen_by_training
from lowrank_bench.score.claims import answer_claims
from lowrank_bench.score.halves import HALVES, score_halves
from lowrank_bench.score.papers import paper_rows
from lowrank_bench.score.saving import choice_splits, largest_savings
from lowrank_bench.score.scored_cell import ScoredCell
from lowrank_bench.score.scores import build_scores, splits_of
from lowrank_bench.score.split_scores import Statistics

PERMUTATIONS = 1999  # of the tests of claims, whose p-values are multiplied by their number


def score_experiment(
    cells: Sequence[ScoredCell],
    tasks: Mapping[str, Mapping[str, Any]],
    references: Mapping[tuple[str, str], NDArray[Any]],
    missing: Mapping[tuple[str, str], str],
    *,
    select: Mapping[str, str],
    claims: Mapping[str, Mapping[str, Any]],
    papers: Mapping[str, Mapping[str, Any]],
    halves: bool,
    resamples: int,
    seed: int,
    baseline: str,
    progress: Callable[[str], None] | None = None,
) -> dict[str, pd.DataFrame]:
    """Score every cell of an experiment.

    Parameters
    ----------
    cells, tasks, references, missing
        As in `scores.build_scores`, with `choice` for each split of a task.
    select
        From method to the parameter that is chosen by the training rows (`chosen`).
    claims, papers
        As in `claims.answer_claims` and `papers.paper_rows`.
    halves
        Whether winners are chosen on one half of each split and confirmed on the other.
    resamples, seed, baseline, progress
        As in `scores.build_scores`.

    Returns
    -------
    dict
        `scores` and `summary` (`score.schema`), and as asked `halves`, `claims` and
        `paper_vs_ours`; for whole networks `saving_at_half_a_point`.
    """
    every = list(cells)
    for method, parameter in select.items():
        every += chosen_by_training(every, references, tasks, method, parameter)
    settings: dict[str, Any] = {"missing": missing, "resamples": resamples, "seed": seed}
    settings |= {"baseline": baseline, "progress": progress}
    scores, summary = build_scores(every, tasks, references, **settings)
    tables = {"scores": scores, "summary": summary}
    if halves:
        tables["halves"], by_half = score_halves(every, tasks, references, **settings)
    if any(cell.meta["target"] != "embedding" for cell in cells):
        if halves:
            savings = largest_savings(by_half, tasks, dict.fromkeys(tasks, HALVES))
        else:
            savings = largest_savings(scores, tasks, choice_splits(tasks))
        tables["saving_at_half_a_point"] = savings
    if claims:
        # Rows on which a compression is chosen say nothing of the choice.
        splits = splits_of(tasks, references, missing)
        reported = [split for split in splits if not _is_choice(tasks[split.task], split.name)]
        statistics = Statistics(resamples, PERMUTATIONS, seed)
        tables["claims"] = answer_claims(every, claims, reported, statistics)
    if papers:
        tables["paper_vs_ours"] = paper_rows(papers, summary, tables.get("saving_at_half_a_point"))
    return tables


def _is_choice(task: Mapping[str, Any], split: str) -> bool:
    return any(part["split"] == split and part["choice"] for part in task["evaluation"])
