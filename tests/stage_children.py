"""Stages of the small experiment in processes of their own, which may be killed at any moment."""

import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import small_store

from lowrank_bench.errors import TransientError
from lowrank_bench.plan.grid import make_plan
from lowrank_bench.stages.record import Record, read_record
from lowrank_bench.stages.run import write_outcome
from lowrank_bench.stages.score import run_score
from lowrank_bench.store.store import Store

processes = multiprocessing.get_context("fork")  # torch is imported once
TICKS = os.sysconf("SC_CLK_TCK")
FORTY_YEARS = 40 * 365 * 86400
MEASURED = {"evaluate_seconds", "factorize_seconds"}


def work(folder: Path) -> None:
    """Do what is open, stage after stage, as the workflow does; say in a file where it stands."""
    for stage in small_store.RUNS:
        manifest = folder / f"jobs/{stage}.json"
        if not manifest.exists():
            (folder / "stage").write_text(stage)
            outcome = small_store.run(stage, folder / "store", folder / "results/small")
            assert {piece["status"] for piece in outcome} == {"ok"}
            write_outcome(manifest, small_store.job(stage), outcome)
    (folder / "stage").write_text("score")
    place = folder / "scores.parquet"
    if not place.exists():
        table = run_score(small_store.config(str(folder / "store")), [])["scores"]
        table.to_parquet(folder / "half", index=False)
        (folder / "half").rename(place)


def quiet(target: Callable[[Path], None], folder: Path, log: Path) -> None:
    """Do the work without a word on the terminal; end with one line on a fault of the machine."""
    with log.open("w") as out:
        sys.stdout = sys.stderr = out
        try:
            target(folder)
        except TransientError as error:
            print(f"error: {error}")
            out.flush()
            os._exit(1)


def child(target: Callable[[Path], None], folder: Path, log: Path) -> Any:
    """Start work in a process."""
    started = processes.Process(target=quiet, args=(target, folder, log))
    started.start()
    return started


def seconds(pid: int) -> float:
    """Return the CPU seconds of a living process; infinity for one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("inf")
    return float("inf") if fields[0] == "Z" else (int(fields[11]) + int(fields[12])) / TICKS


def records(root: Path) -> dict[str, Record]:
    """Return all cells of the small experiment by key, without what was measured in time."""
    found = {}
    for cell in make_plan(small_store.config(str(root))).cells():
        record = read_record(cell, Store(root))
        if record is not None:
            facts = {name: fact for name, fact in record.facts.items() if name not in MEASURED}
            found[cell.key] = Record(facts, record.predictions)
    return found


def remove_one(store, random):
    """Remove a random artifact, as a user or a clean-up would: file after file."""
    places = sorted(store.glob("[!.]*/??/[!.]*"))
    if not places:
        return ""
    place = places[int(random.integers(len(places)))]
    if place.is_dir():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)
    return place.parts[-3]


def shift_files(folder, random):
    """Give every file below a folder a time between 1970 and forty years from now."""
    for place in (*folder.rglob("*"), folder):
        moment = int(random.integers(0, int(time.time()) + FORTY_YEARS))
        os.utime(place, (moment, moment), follow_symlinks=False)
