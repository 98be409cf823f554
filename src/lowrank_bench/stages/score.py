"""The score stage: what the store holds of an experiment, handed to scoring as plain values."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lowrank_bench.config import Config
from lowrank_bench.errors import LowRankError, TransientError
from lowrank_bench.inputs.splits import split_and_range
from lowrank_bench.plan.cells import Cell, Checkpoint
from lowrank_bench.plan.grid import make_plan
from lowrank_bench.problem import data_used
from lowrank_bench.score.evaluated import evaluated_cell, note_on_data
from lowrank_bench.score.experiment import score_experiment
from lowrank_bench.score.scored_cell import ScoredCell
from lowrank_bench.stages.download import DataStep
from lowrank_bench.stages.faults import brief
from lowrank_bench.stages.progress import Progress
from lowrank_bench.stages.record import Record, read_record
from lowrank_bench.stages.run import failures_of
from lowrank_bench.stages.runner import Runner
from lowrank_bench.stages.settings import settings_of
from lowrank_bench.store.digest import canonical
from lowrank_bench.store.store import Store

Place = tuple[str, str]  # task and split


def run_score(config: Config, outcomes: list[Path]) -> dict[str, pd.DataFrame]:
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
        As `score.experiment.score_experiment`.
    """
    runner = Runner(Store(config.store), settings_of(config))
    progress = Progress(runner.settings.folder, "score", runner.store, job="score")

    def tell(line: str) -> None:
        """Print a line with the time left."""
        print(f"[score] {line} · {progress.time_left()}", file=sys.stderr, flush=True)

    cells, failures = make_plan(config).cells(), failures_of(outcomes)
    tasks = {name: task.model_dump() for name, task in config.task.items()}
    references: dict[Place, NDArray[Any]] = {}
    missing: dict[Place, str] = {}
    notes = {}
    for task, checkpoint in {cell.checkpoint.task: cell.checkpoint for cell in cells}.items():
        data_step = DataStep(checkpoint.data)
        data = runner.ensure(data_step)
        manifest = data.manifest
        notes[task] = note_on_data(tasks[task], manifest["splits"], config.evaluation.precision)
        for split in checkpoint.evaluation:
            whole, _ = split_and_range(split)
            if whole in manifest["missing"]:
                missing[task, split] = manifest["missing"][whole]
                continue
            with runner.watched(data_step.title):
                references[task, split] = _labels(checkpoint, split, data.folder)
    scored = [_scored(config, cell, runner, failures, notes) for cell in cells]
    statistics = config.statistics
    return score_experiment(
        scored,
        tasks,
        references,
        missing,
        select=config.select,
        claims={name: claim.model_dump() for name, claim in config.claims.items()},
        papers={name: paper.model_dump() for name, paper in config.reference.items()},
        halves=statistics.halves,
        resamples=statistics.resamples,
        seed=statistics.seed,
        baseline=statistics.baseline,
        progress=tell,
    )


def _scored(
    config: Config,
    cell: Cell,
    runner: Runner,
    failures: Mapping[str, str],
    notes: Mapping[str, str],
) -> ScoredCell:
    checkpoint, spec = cell.checkpoint, cell.spec
    meta: dict[str, Any] = {
        "experiment": config.name,
        "model": checkpoint.model,
        "task": checkpoint.task,
        "method": spec.method,
        "params": canonical(spec.params),
        "label": spec.label,
        "data_used": data_used(spec.needs),
        "target": spec.target,
        "budget": spec.budget,
        "compression": cell.compression,
        "seed": checkpoint.seed,
        "finetune_epochs": cell.finetune_epochs,
        "note": notes[checkpoint.task],
        "code_digest": f"{checkpoint.code}.{spec.code}.{cell.code}",
        "config_digest": cell.config_digest,
    }
    record = _record(cell, runner, failures)
    if isinstance(record, str):
        return ScoredCell(meta, {}, "failed", record)
    return evaluated_cell(meta, record.facts, record.predictions)


def _record(cell: Cell, runner: Runner, failures: Mapping[str, str]) -> Record | str:
    """Return a cell's record, or the reason why it has none.

    A record that was lost after its job had ended is made again.
    """
    record = read_record(cell, runner.store)
    if record is not None:
        return record
    if cell.key in failures:
        return failures[cell.key]
    from lowrank_bench.stages.evaluate import CellStep

    try:
        return runner.ensure(CellStep(cell))
    except TransientError:
        raise
    except Exception as error:  # the cell becomes a row without a record
        reason = str(error) if isinstance(error, LowRankError) else brief(error)
        print(f"[score] {cell.title()}: {reason}", file=sys.stderr, flush=True)
        return reason


def _labels(checkpoint: Checkpoint, split: str, folder: Path) -> NDArray[Any]:
    """Return the labels of a split; zeros for a task without any, n either way."""
    from lowrank_bench.inputs.rows import read_split

    rows, label = read_split(folder, split), checkpoint.inputs["label"]
    return np.asarray(rows[label].to_numpy()) if label else np.zeros(len(rows))
