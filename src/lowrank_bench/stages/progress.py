"""Progress of a whole experiment, shown by whichever process finishes a piece of it.

Finished pieces are counted in the store itself, so that the count is right after a crash and over
several processes. Their durations are appended to one small file, to estimate the time left.
"""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from lowrank_bench.plan.cells import Job
from lowrank_bench.store.files import write_atomic
from lowrank_bench.store.store import Store

PAUSE = 50  # between two lines, in multiples of the time that a line takes
UNITS = {
    "checkpoint": "checkpoints",
    "factorize": "decompositions",
    "evaluate": "cells",
    "finetune": "cells",
}
KINDS = {
    "checkpoint": ("checkpoint", ""),
    "factorize": ("decomposition", ""),
    "evaluate": ("cell", ".safetensors"),
    "finetune": ("cell", ".safetensors"),
}


def write_plan(folder: Path, stages: Mapping[str, tuple[Job, ...]], cores: int) -> None:
    """Write the keys of all pieces of an experiment, for `Progress` to count."""
    keys = {
        "checkpoint": {
            checkpoint.key for job in stages["checkpoint"] for checkpoint in job.checkpoints
        },
        "factorize": {key for job in stages["factorize"] for key in job.decompositions()},
        "evaluate": {cell.key for job in stages["evaluate"] for cell in job.cells()},
        "finetune": {cell.key for job in stages["finetune"] for cell in job.cells()},
    }
    listed = {stage: sorted(pieces) for stage, pieces in keys.items()}
    content = {"started": time.time(), "cores": cores, "keys": listed}
    write_atomic(folder / "plan.json", json.dumps(content))


class Progress:
    """Lines on stderr: the stage, the count and the total, what was finished, and the time left.

    Parameters
    ----------
    folder
        The experiment's results folder; without a plan in it nothing is counted.
    stage
        `checkpoint`, `factorize`, `evaluate` or `finetune`.
    threads
        Cores that one job uses, for the estimate of the time left.
    """

    def __init__(self, folder: Path, stage: str, store: Store, threads: int = 1) -> None:
        self.folder, self.stage, self.store = folder, stage, store
        self._due = 0.0
        self._since = time.perf_counter()
        try:
            plan = json.loads((folder / "plan.json").read_text())
        except (OSError, ValueError):
            plan = {"started": time.time(), "cores": 1, "keys": {}}
        self._keys, self._started = plan["keys"], plan["started"]
        self._left: dict[str, list[str]] = dict(self._keys)  # pieces not seen in the store yet
        self._side_by_side = max(1, plan["cores"] // threads)

    def finished(self, title: str) -> None:
        """Note one finished piece of this stage, and show where the experiment stands."""
        now = time.perf_counter()
        entry = {"t": time.time(), "stage": self.stage, "seconds": now - self._since}
        self._since = now
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "progress.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")
        if now >= self._due:
            self.show(title)
            shown = time.perf_counter()
            # Counting looks at every piece, of which there may be very many.
            self._due = shown + max(1, PAUSE * (shown - now))

    def show(self, title: str) -> None:
        """Print the line."""
        done, total = self._done(self.stage), len(self._keys.get(self.stage, ()))
        line = f"[{self.stage}] {done:,} of {total:,} {UNITS[self.stage]}"
        print(f"{line} · {title} · {self._time_left()}", file=sys.stderr, flush=True)

    def _done(self, stage: str) -> int:
        kind, suffix = KINDS[stage]
        left = self._left.get(stage, ())
        left = [key for key in left if not self.store.place(kind, key, suffix).exists()]
        self._left[stage] = left
        return len(self._keys.get(stage, ())) - len(left)

    def _time_left(self) -> str:
        seconds: dict[str, list[float]] = {stage: [] for stage in UNITS}
        for line in (self.folder / "progress.jsonl").read_text().splitlines()[-5000:]:
            try:
                entry = json.loads(line)
            except ValueError:  # two nodes wrote at once over a network filesystem
                continue
            if entry["t"] >= self._started:
                seconds[entry["stage"]].append(entry["seconds"])
        left, unknown = 0.0, False
        for stage, spent in seconds.items():
            remaining = len(self._keys.get(stage, ())) - self._done(stage)
            if remaining and not spent:
                unknown = True
            elif remaining:
                left += remaining * sum(spent) / len(spent) / self._side_by_side
        return f"{'more than ' if unknown else 'about '}{_duration(left)} left"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
