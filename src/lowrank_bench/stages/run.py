"""What each stage's job does. Work found in the store costs no torch import."""

import gc
import json
import sys
import traceback
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from lowrank_bench.errors import LowRankError
from lowrank_bench.evaluate.record import missing_cells
from lowrank_bench.plan.cells import Cell, Job
from lowrank_bench.stages.progress import Progress
from lowrank_bench.store.store import Store, write_atomic

# What a process that makes or loads networks imports sooner or later.
NETWORKS = {
    "text": ("lowrank_bench.inputs.text.text", "transformers.modeling_utils"),
    "image": ("lowrank_bench.inputs.vision.image",),
}


def run_download(job: Job, store: Store) -> list[dict[str, Any]]:
    """Fetch or generate the job's sources."""
    done = []
    for source in job.sources:
        print(f"[download] {source.kind} {source.name}", file=sys.stderr, flush=True)
        if source.kind == "network":
            from lowrank_bench.download.network import download_network as fetch
        else:
            from lowrank_bench.download.data import download_data as fetch
        fetch(source, store)
        done.append({"kind": source.kind, "key": source.key, "status": "ok", "reason": ""})
    return done


def run_checkpoint(job: Job, store: Store, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Make the job's checkpoints and evaluate them as they are, dense."""
    progress = Progress(Path(settings["folder"]), "checkpoint", store, settings["threads"])
    failures = {}
    for point in job.checkpoints:
        if store.folder("checkpoint", point.key):
            continue
        _start(settings, *NETWORKS[point.modality])
        from lowrank_bench.checkpoint.make import ensure_checkpoint

        def _shown(step: int, steps: int, loss: float, title: str = point.title()) -> None:
            if step == 1 or step % max(1, steps // 5) == 0:
                text = f"[checkpoint] {title} · step {step} of {steps} · loss {loss:.3f}"
                print(text, file=sys.stderr, flush=True)

        try:
            ensure_checkpoint(point, store, _shown)
        except Exception as error:  # all its cells become rows with this reason
            failures[point.key] = _reason(error)
            print(f"error: {failures[point.key]}", file=sys.stderr, flush=True)
        progress.finished(point.title())
    done = run_evaluate(job, store, {**settings, "failures": failures}, quiet=True)
    return [*done, *(_failed(key, reason) for key, reason in failures.items())]


def run_factorize(job: Job, store: Store, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Decompose the matrices of the job's checkpoints by each of its specs."""
    progress = Progress(Path(settings["folder"]), "factorize", store, settings["threads"])
    before: Mapping[str, str] = settings.get("failures", {})
    done, loaded, given = [], None, None
    for key, (point, spec, compression) in job.decompositions().items():
        status, reason = "ok", ""
        if point.key in before:
            done.append(_failed(key, before[point.key]))
            continue
        if not store.folder("decomposition", key):
            if spec.target == "embedding":
                _start(settings, "lowrank_bench.factorize.decompose")
                from lowrank_bench.factorize.decompose import checkpoint_matrix as prepare
                from lowrank_bench.factorize.decompose import ensure_decomposition as ensure
            else:
                _start(settings, *NETWORKS[point.modality])
                from lowrank_bench.factorize.network import ensure_compressed as ensure
                from lowrank_bench.factorize.network import network_problem as prepare

            try:
                if loaded != (point.key, spec.target):
                    from lowrank_bench.device import best_device

                    device = best_device(settings["factorize_device"], "factorize.device")
                    given, loaded = prepare(point, spec, store, device), (point.key, spec.target)
                ensure(point, spec, compression, store, given)
            except Exception as error:  # the cells that need it become rows with this reason
                status, reason = "failed", _reason(error)
            progress.finished(f"{point.title()} · {spec.label}")
        done.append({"key": key, "status": status, "reason": reason})
    return done


def run_evaluate(
    job: Job, store: Store, settings: Mapping[str, Any], quiet: bool = False
) -> list[dict[str, Any]]:
    """Evaluate the job's cells that the store does not hold yet, after training if they ask."""
    cells = job.cells()
    outcome = {cell.key: {"key": cell.key, "status": "ok", "reason": ""} for cell in cells}
    before: Mapping[str, str] = settings.get("failures", {})
    todo = []
    for cell in missing_cells(cells, store):
        causes = [key for key in (cell.checkpoint.key, cell.spec_key) if key in before]
        if causes:
            outcome[cell.key] = _failed(cell.key, before[causes[0]])
        else:
            todo.append(cell)
    if todo:
        _start(settings, *NETWORKS[todo[0].checkpoint.modality])
        from lowrank_bench.evaluate.cell import evaluate_cells

        stage = "finetune" if job.stage == "finetune" else "evaluate"
        progress = Progress(Path(settings["folder"]), stage, store, settings["threads"])

        def _on_done(cell: Cell, error: Exception | None) -> None:
            if error is not None:
                reason = _reason(error)
                outcome[cell.key] |= {"status": "failed", "reason": reason}
                print(f"[{stage}] failed: {cell.title()}: {reason}", file=sys.stderr, flush=True)
            if not quiet:
                progress.finished(cell.title())

        numbers = (settings["max_tokens"], settings["device"])
        evaluate_cells(todo, store, *numbers, _on_done, settings["precision"])
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


def write_outcome(place: Path, job: Job, outcome: list[dict[str, Any]]) -> None:
    """Write the manifest by which the workflow knows that a job is done."""
    content = {"stage": job.stage, "name": job.name, "outcome": outcome}
    write_atomic(place, json.dumps(content, indent=1))


def _failed(key: str, reason: str) -> dict[str, str]:
    return {"key": key, "status": "failed", "reason": reason}


def failures_of(manifests: Iterable[Path]) -> dict[str, str]:
    """Return the reasons of all pieces that failed, by key, from the manifests of jobs."""
    pieces = [piece for path in manifests for piece in json.loads(path.read_text())["outcome"]]
    return {piece["key"]: piece["reason"] for piece in pieces if piece["status"] == "failed"}


def _start(settings: Mapping[str, Any], *modules: str) -> None:
    """Import torch and `modules`, and give torch the job's threads.

    Imports make a million objects, all of which stay: to look for garbage among them meanwhile
    takes a sixth of the time.
    """
    gc.disable()
    try:
        import torch

        for name in modules:
            import_module(name)
    finally:
        gc.enable()
    torch.set_num_threads(settings["threads"])


def _reason(error: Exception) -> str:
    if isinstance(error, LowRankError):
        return str(error)
    traceback.print_exception(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
