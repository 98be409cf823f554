"""Progress of a whole experiment, shown by whichever process finishes a piece of it.

Finished pieces are counted in the store itself, so that the count is right after a crash and over
several processes. What each process begins and finishes, and when, is appended to one small file,
from which `time_left` estimates the time left.
"""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lowrank_bench.plan.cells import Job
from lowrank_bench.plan.work import presenting, processes
from lowrank_bench.stages.time_left import TimeLeft, work_of
from lowrank_bench.store.files import write_atomic
from lowrank_bench.store.store import Store

PAUSE = 50  # between two lines, in multiples of the time that a line takes
EARLIER = 0.2  # weight of the seconds of an earlier run of the same experiment
UNITS = {
    "checkpoint": "checkpoints",
    "factorize": "decompositions",
    "evaluate": "cells",
    "finetune": "cells",
}
CELL = ("cell", ".safetensors")
KINDS = {
    "checkpoint": ("checkpoint", ""),
    "dense": CELL,  # of the checkpoint stage, which are not counted in its lines
    "factorize": ("decomposition", ""),
    "evaluate": CELL,
    "finetune": CELL,
}
NOTHING: dict[str, Any] = {"keys": {}, "work": {"kinds": [], "jobs": []}, "cores": 1}


def write_plan(
    folder: Path,
    stages: Mapping[str, tuple[Job, ...]],
    cores: int,
    networks: int = 1,
    measured: bool = False,
) -> None:
    """Write the keys of all pieces of an experiment, and the work that they are.

    Parameters
    ----------
    folder
        The experiment's results folder.
    stages
        The jobs of each stage.
    cores
        Cores of the run.
    networks, measured
        Number of networks of the experiment, and whether it measures their latency.
    """
    keys = {
        "checkpoint": {
            checkpoint.key for job in stages["checkpoint"] for checkpoint in job.checkpoints
        },
        "dense": {cell.key for job in stages["checkpoint"] for cell in job.cells()},
        "factorize": {key for job in stages["factorize"] for key in job.decompositions()},
        "evaluate": {cell.key for job in stages["evaluate"] for cell in job.cells()},
        "finetune": {cell.key for job in stages["finetune"] for cell in job.cells()},
    }
    cells = sum(len(keys[stage]) for stage in ("dense", "evaluate", "finetune"))
    jobs = processes(stages)
    jobs += presenting(len(jobs), cells, networks, measured)
    content = {
        "started": time.time(),
        "cores": cores,
        "keys": {stage: sorted(pieces) for stage, pieces in keys.items()},
        "work": work_of(jobs),
    }
    write_atomic(folder / "plan.json", json.dumps(content))


class Progress:
    """Lines on stderr: the stage, the count and the total, what was finished, and the time left.

    Parameters
    ----------
    folder
        The experiment's results folder; without a plan in it nothing is counted.
    stage
        `checkpoint`, `factorize`, `evaluate`, `finetune` or `score`.
    threads
        Cores that one job uses, for the estimate of the time left.
    job
        Name of the job that this process runs, which begins now.
    """

    def __init__(
        self, folder: Path, stage: str, store: Store, threads: int = 1, job: str = ""
    ) -> None:
        self.folder, self.stage, self.store = folder, stage, store
        self._job, self._due, self._read = job, 0.0, 0
        self._since = time.time()
        plan = NOTHING | {"started": time.time()}
        with suppress(OSError, ValueError):
            plan |= json.loads((folder / "plan.json").read_text())
        self._keys, self._started = plan["keys"], plan["started"]
        self._left: dict[str, list[str]] = dict(self._keys)  # pieces not seen in the store yet
        self._estimate = TimeLeft(plan["work"], plan["cores"] // threads)
        self._resumed = False
        if job and self._keys:
            self._hint({})

    def finished(self, title: str, key: str = "", quiet: bool = False) -> None:
        """Note one finished piece of this stage, and show where the experiment stands.

        Parameters
        ----------
        title
            What it is.
        key
            Its key.
        quiet
            Only note it.
        """
        now = time.time()
        stage = "dense" if quiet else self.stage
        self._append({"key": key, "seconds": now - self._since, "stage": stage})
        self._since = now
        if not quiet and time.perf_counter() >= self._due:
            before = time.perf_counter()
            self.show(title)
            shown = time.perf_counter()
            # Counting looks at every piece, of which there may be very many.
            self._due = shown + max(1, PAUSE * (shown - before))

    def partly(self, key: str, part: float) -> None:
        """Note that a part of a piece is done, a share between 0 and 1."""
        self._hint({"key": key, "part": part})

    def show(self, title: str) -> None:
        """Print the line."""
        left = self.time_left()  # which counts
        total = len(self._keys.get(self.stage, ()))
        done = total - len(self._left.get(self.stage, ()))
        line = f"[{self.stage}] {done:,} of {total:,} {UNITS[self.stage]}"
        print(f"{line} · {title} · {left}", file=sys.stderr, flush=True)

    def time_left(self) -> str:
        """Return the time that the experiment still takes, in words."""
        for event in self._events():
            earlier = event["t"] < self._started
            if not earlier and not self._resumed:
                self._resumed = True
                self._estimate.forget_processes()
            self._estimate.note(event, EARLIER if earlier else 1.0)
        missing = {key for stage in KINDS for key in self._missing(stage)}
        seconds = self._estimate.seconds(missing, self._is_over, time.time())
        return f"about {in_words(seconds)} left"

    def _is_over(self, job: str) -> bool:
        """Return whether a job has written its manifest, with all that failed in it."""
        return (self.folder / "jobs" / f"{job}.json").exists()

    def _hint(self, event: dict[str, Any]) -> None:
        """Append what only the estimate of the time left would miss."""
        with suppress(OSError):
            self._append(event)

    def _append(self, event: dict[str, Any]) -> None:
        entry = {"t": time.time(), "stage": self.stage, "job": f"{self.stage}/{self._job}"} | event
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "progress.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def _events(self) -> Iterator[dict[str, Any]]:
        """Yield what was written to the file since the last time."""
        with suppress(OSError), (self.folder / "progress.jsonl").open("rb") as file:
            file.seek(self._read)
            lines = file.read()
            whole = lines[: lines.rfind(b"\n") + 1]  # another process may be writing the last one
            self._read += len(whole)
            for line in whole.splitlines():
                with suppress(ValueError):  # two nodes wrote at once over a network filesystem
                    event = json.loads(line)
                    if "job" in event:
                        yield event

    def _missing(self, stage: str) -> list[str]:
        kind, suffix = KINDS[stage]
        left = self._left.get(stage, [])
        left = [key for key in left if not self.store.place(kind, key, suffix).exists()]
        self._left[stage] = left
        return left


def in_words(seconds: float) -> str:
    """Return a time as coarse as it is known: 75 s, 2.5 min, 12 min, 1.8 h."""
    if seconds < 100:
        return f"{max(5, 5 * round(seconds / 5))} s"
    if seconds < 570:
        return f"{round(seconds / 30) / 2:g} min"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
