"""Collect an experiment's stored predictions, labels and notes, and score them."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lowrank_bench.compression.savings import compression_of
from lowrank_bench.config.schema import Config
from lowrank_bench.download.data import download_data, read_split, unofficial
from lowrank_bench.evaluate.record import read_record
from lowrank_bench.plan.cells import Cell, Checkpoint, split_and_range
from lowrank_bench.plan.grid import make_plan
from lowrank_bench.problem import data_used
from lowrank_bench.score.chosen import chosen_by_training
from lowrank_bench.score.halves import HALVES, score_halves
from lowrank_bench.score.saving import choice_splits, largest_savings
from lowrank_bench.score.scores import ScoredCell, build_scores
from lowrank_bench.stages.run import failures_of
from lowrank_bench.store.digest import canonical
from lowrank_bench.store.store import Store


def score_experiment(config: Config, outcomes: list[Path]) -> dict[str, pd.DataFrame]:
    """Score every cell of an experiment.

    Parameters
    ----------
    config
        The experiment.
    outcomes
        Manifests of the checkpoint and evaluate jobs; they tell which cells failed, and why.

    Returns
    -------
    dict
        `scores` and `summary`, tables with the columns of `score.schema`, and, where the
        experiment asks for them, `halves` and `saving_at_half_a_point` (module `saving`).
    """
    store = Store(config.store)
    cells = make_plan(config).cells()
    failures = failures_of(outcomes)
    data = {cell.checkpoint.task: cell.checkpoint for cell in cells}
    references, missing, notes = {}, {}, {}
    for task, point in data.items():
        about = store.manifest(download_data(point.data, store))
        notes[task] = _note(config, task, about)
        for split in point.evaluation:
            whole, _ = split_and_range(split)
            if whole in about["missing"]:
                missing[task, split] = about["missing"][whole]
            else:
                references[task, split] = _labels(point, split, store)
    scored = [_scored(config, cell, store, failures, notes) for cell in cells]
    tasks = {name: task.model_dump() for name, task in config.task.items()}
    for method, parameter in config.select.items():
        scored += chosen_by_training(scored, references, tasks, method, parameter)
    statistics = config.statistics
    settings: dict[str, Any] = {
        "missing": missing,
        "resamples": statistics.resamples,
        "seed": statistics.seed,
        "baseline": statistics.baseline,
        "progress": lambda line: print(f"[score] {line}", file=sys.stderr, flush=True),
    }
    scores, summary = build_scores(scored, tasks, references, **settings)
    found = {"scores": scores, "summary": summary}
    if statistics.halves:
        found["halves"], by_half = score_halves(scored, tasks, references, **settings)
    if any(cell.spec.target != "embedding" for cell in cells):
        if statistics.halves:
            savings = largest_savings(by_half, tasks, dict.fromkeys(tasks, HALVES))
        else:
            savings = largest_savings(scores, tasks, choice_splits(tasks))
        found["saving_at_half_a_point"] = savings
    return found


def _scored(
    config: Config, cell: Cell, store: Store, failures: dict[str, str], notes: dict[str, str]
) -> ScoredCell:
    point, spec = cell.checkpoint, cell.spec
    meta: dict[str, Any] = {
        "experiment": config.name,
        "model": point.model,
        "task": point.task,
        "method": spec.method,
        "params": canonical(spec.params),
        "label": spec.label,
        "data_used": data_used(spec.needs),
        "target": spec.target,
        "budget": spec.settings.get("budget", "parameters"),
        "compression": cell.compression,
        "seed": point.seed,
        "finetune_epochs": cell.finetune_epochs,
        "note": notes[point.task],
        "code_digest": f"{point.code}.{spec.code}.{cell.code}",
        "config_digest": cell.config_digest,
    }
    record = read_record(cell, store)
    if record is None and cell.key not in failures:
        record = _again(config, cell, store)
    if record is None:
        return ScoredCell(meta, {}, "failed", failures.get(cell.key, "no record in the store"))
    facts = record.facts
    counts = (facts[name] for name in ("parameters_kept", "index_bits", "parameters_dense"))
    reached = facts.get("achieved_compression")  # where the budget is not of parameters
    meta["achieved_compression"] = compression_of(*counts) if reached is None else reached
    return ScoredCell({**facts, **meta}, record.predictions)


def _again(config: Config, cell: Cell, store: Store) -> Any:
    """Evaluate a cell whose record was lost or damaged after its job had ended."""
    from lowrank_bench.evaluate.cell import evaluate_cells

    evaluation = config.evaluation
    numbers = (evaluation.max_tokens, evaluation.device)
    evaluate_cells([cell], store, *numbers, lambda *_: None, evaluation.precision)
    return read_record(cell, store)


def _labels(point: Checkpoint, split: str, store: Store) -> np.ndarray:
    rows = read_split(download_data(point.data, store), split)
    return rows[point.inputs["label"]].to_numpy()


def _note(config: Config, task: str, about: dict[str, Any]) -> str:
    """Return what is not standard about the data that a result rests on."""
    entry = config.task[task]
    notes = [entry.note] if entry.note else []
    if config.evaluation.precision != "fp32":
        notes.append(f"evaluated in {config.evaluation.precision}")
    for split in (entry.train, *entry.evaluation):
        facts = about["splits"].get(split.split)
        fault = unofficial(facts, split.model_dump()) if facts else ""
        if fault:
            notes.append(f"{split.split} split not official: {fault}")
    rows = about["splits"].get(entry.train.split, {}).get("rows", 0)
    if entry.train.limit and entry.train.limit < rows:
        notes.append(f"trained on {entry.train.limit:,} of {rows:,} rows")
    return "; ".join(notes)
