"""What each stage's job does. Work found in the store costs no torch import.

A piece of work that cannot be done is an outcome with its reason, and a row in the tables. What the
machine does wrong is no outcome (`faults` tells the two apart): the job ends with one line and
writes no manifest, so that the next run does what is open.
"""

import gc
import json
import sys
import traceback
from collections.abc import Iterable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path

from lowrank_bench.errors import LowRankError, TransientError
from lowrank_bench.inputs.modality import PACKAGES
from lowrank_bench.plan.cells import Cell, Checkpoint, Job
from lowrank_bench.stages.download import source_step
from lowrank_bench.stages.faults import brief, transient
from lowrank_bench.stages.progress import Progress
from lowrank_bench.stages.record import missing_cells
from lowrank_bench.stages.runner import Runner, Step
from lowrank_bench.stages.settings import Settings
from lowrank_bench.store.files import write_atomic
from lowrank_bench.store.store import Store

Outcome = dict[str, str]  # of one piece of work: key, status, reason

# Imported anyway by a process that makes or loads networks, in addition to the modality.
_TEXT = ("transformers.modeling_utils",)
LIBRARIES = {"text": _TEXT, "image": (), "similarity": _TEXT}


def run_download(job: Job, store: Store, settings: Settings) -> list[Outcome]:
    """Fetch or generate the job's sources."""
    runner, outcome = Runner(store, settings), []
    for source in job.sources:
        print(f"[download] {source.kind} {source.name}", file=sys.stderr, flush=True)
        runner.ensure(source_step(source))
        outcome.append({"kind": source.kind} | _ok(source.key))
    return outcome


def run_checkpoint(job: Job, store: Store, settings: Settings) -> list[Outcome]:
    """Make the job's checkpoints and evaluate them as they are, dense."""
    progress = Progress(settings.folder, "checkpoint", store, settings.threads, job.name)
    runner, failures = Runner(store, settings), {}
    for checkpoint in job.checkpoints:
        if store.folder("checkpoint", checkpoint.key):
            continue
        _start(settings, checkpoint)
        from lowrank_bench.stages.checkpoint import CheckpointStep

        shown = partial(_show_step, checkpoint, progress)
        reason = _tried(runner, CheckpointStep(checkpoint, shown))
        if reason:  # all its cells become rows with this reason
            failures[checkpoint.key] = reason
            print(f"error: {reason}", file=sys.stderr, flush=True)
        progress.finished(checkpoint.title(), checkpoint.key)
    outcome = _evaluated(job, store, settings, failures, progress)
    return [*outcome, *(_failed(key, reason) for key, reason in failures.items())]


def _show_step(
    checkpoint: Checkpoint, progress: Progress, step: int, steps: int, loss: float
) -> None:
    """Show some of the steps of a training, and note the part that is done."""
    if step != 1 and step % max(1, steps // 5):
        return
    if 1 < step < steps:
        progress.partly(checkpoint.key, step / steps)
    text = f"[checkpoint] {checkpoint.title()} · step {step} of {steps} · loss {loss:.3f}"
    print(f"{text} · {progress.time_left()}", file=sys.stderr, flush=True)


def run_factorize(job: Job, store: Store, settings: Settings) -> list[Outcome]:
    """Decompose the matrices of the job's checkpoints by each of its specs."""
    progress = Progress(settings.folder, "factorize", store, settings.threads, job.name)
    runner, outcome, prepared = Runner(store, settings), [], None
    for key, (checkpoint, spec, compression) in job.decompositions().items():
        reason = settings.failures.get(checkpoint.key, "")
        if not reason and not store.folder("decomposition", key):
            _start(settings, None if spec.target == "embedding" else checkpoint)
            from lowrank_bench.stages.factorize import DecompositionStep, Prepared

            prepared = prepared or Prepared()
            step = DecompositionStep(checkpoint, spec, compression, prepared)
            reason = _tried(runner, step)  # the cells that need it become rows with this reason
            progress.finished(f"{checkpoint.title()} · {spec.label}", key)
        outcome.append(_failed(key, reason) if reason else _ok(key))
    return outcome


def run_evaluate(job: Job, store: Store, settings: Settings) -> list[Outcome]:
    """Evaluate the job's cells that the store lacks, after further training if they ask for it."""
    progress = Progress(settings.folder, job.stage, store, settings.threads, job.name)
    return _evaluated(job, store, settings, settings.failures, progress)


def _evaluated(
    job: Job, store: Store, settings: Settings, failures: Mapping[str, str], progress: Progress
) -> list[Outcome]:
    """Evaluate the missing cells, except those that rest on a failed piece of work."""
    cells = job.cells()
    outcome = {cell.key: _ok(cell.key) for cell in cells}
    todo = []
    for cell in missing_cells(cells, store):
        causes = [key for key in (cell.checkpoint.key, cell.spec_key) if key in failures]
        if causes:
            outcome[cell.key] = _failed(cell.key, failures[causes[0]])
        else:
            todo.append(cell)
    if todo:
        reasons = _computed(todo, Runner(store, settings), progress)
        outcome |= {key: _failed(key, reason) for key, reason in reasons.items() if reason}
    lost = sum(piece["status"] == "failed" for piece in outcome.values())
    tried = sum(outcome[cell.key]["status"] == "failed" for cell in todo)
    fresh, reused = len(todo) - tried, len(cells) - len(todo) - (lost - tried)
    print(
        f"[{job.stage}] {job.name}: {fresh} cells computed, {reused} reused"
        + (f", {lost} failed" if lost else ""),
        file=sys.stderr,
        flush=True,
    )
    return list(outcome.values())


def _computed(cells: list[Cell], runner: Runner, progress: Progress) -> dict[str, str]:
    """Evaluate cells, and return for each key the reason why it failed, or an empty one."""
    _start(runner.settings, cells[0].checkpoint)
    from lowrank_bench.stages.evaluate import CellStep, CheckpointEvaluator

    stage = "evaluate" if progress.stage == "checkpoint" else progress.stage
    evaluators: dict[str, CheckpointEvaluator] = {}
    reasons = {}
    for cell in cells:
        reason = reasons[cell.key] = _tried(runner, CellStep(cell, evaluators))
        if reason:
            text = f"[{stage}] failed: {cell.title()}: {reason}"
            print(text, file=sys.stderr, flush=True)
        progress.finished(cell.title(), cell.key, quiet=stage != progress.stage)
    return reasons


def write_outcome(place: Path, job: Job, outcome: list[Outcome]) -> None:
    """Write the manifest by which the workflow knows that a job is done."""
    content = {"stage": job.stage, "name": job.name, "outcome": outcome}
    write_atomic(place, json.dumps(content, indent=1))


def failures_of(manifests: Iterable[Path]) -> dict[str, str]:
    """Return the reasons of all pieces that failed, by key, from the manifests of jobs."""
    pieces = [piece for path in manifests for piece in json.loads(path.read_text())["outcome"]]
    return {piece["key"]: piece["reason"] for piece in pieces if piece["status"] == "failed"}


def _tried(runner: Runner, step: Step[object]) -> str:
    """Have an artifact made, and return the reason why it failed for good, or an empty one.

    Raises
    ------
    TransientError
        When it may succeed later.
    """
    try:
        runner.ensure(step)
    except TransientError:
        raise
    except LowRankError as error:
        return str(error)
    except Exception as error:  # a piece of work that cannot be done is a row with a reason
        traceback.print_exception(error)
        return brief(error)
    return ""


def _ok(key: str) -> Outcome:
    return {"key": key, "status": "ok", "reason": ""}


def _failed(key: str, reason: str) -> Outcome:
    return {"key": key, "status": "failed", "reason": reason}


def _start(settings: Settings, checkpoint: Checkpoint | None) -> None:
    """Import torch and what a checkpoint's network needs, and give torch the job's threads.

    A store that cannot be written ends the job here, before hours of work that could not be kept.
    Imports create a million objects, and all of them stay. Looking for garbage among them would
    take a sixth of the time, so the collector is off meanwhile.
    """
    try:
        Store(settings.store).check_writable()
    except OSError as error:
        raise transient(error, f"store {settings.store}") from error
    modules: list[str] = []
    if checkpoint is not None:
        modules = [".".join(PACKAGES[checkpoint.modality]), *LIBRARIES[checkpoint.modality]]
    gc.disable()
    try:
        import torch

        for name in modules:
            import_module(name)
    finally:
        gc.enable()
    torch.set_num_threads(settings.threads)
