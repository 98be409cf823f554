"""A workflow that is killed at seeded moments of chosen stages, and started again until it ends."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

PROJECT = Path(__file__).parents[1]
FILES = ("Snakefile", "conf", "workflow", "profiles", "src", "environment.yml")
MEASURED = r"created_at|git_commit|versions|.*_seconds"
SCRIPT = re.compile(r"\.snakemake/scripts/tmp\w+?\.(\w+)\.py")
# Stages in their order, with the CPU seconds of a stage's processes in which a kill falls; those
# of long stages are multiplied for experiments that take long.
MOMENTS = {
    "planning": 1.5,
    "download": 1.5,
    "checkpoint": 6.0,
    "factorize": 5.0,
    "evaluate": 6.0,
    "score": 5.0,
    "tables": 3.0,
    "figures": 4.0,
    "report": 1.5,
}
LONG = ("checkpoint", "factorize", "evaluate")
ORDER = list(MOMENTS)
LATE = ORDER[ORDER.index("score") :]
TICKS = os.sysconf("SC_CLK_TCK")
Stamp = tuple[int, int]  # inode and time of change of a file


def copy_project(folder: Path) -> Path:
    """Copy what a run needs into a folder of its own."""
    folder.mkdir(parents=True)
    for name in FILES:
        source = PROJECT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    return folder


def start(folder: Path, overrides: list[str], log: Path, cores: int = 2) -> subprocess.Popen[bytes]:
    """Start the workflow as the leader of a process group."""
    command = [sys.executable, "-m", "snakemake", "--cores", str(cores)]
    command += ["--config", f"overrides={json.dumps(overrides)}"] if overrides else []
    paths = {"PYTHONPATH": str(folder / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    with log.open("wb") as out:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | paths,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def session(leader: int) -> Iterator[tuple[int, str, float]]:
    """Yield number, stage (or nothing) and CPU seconds of the living processes of a session."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            fields = (place / "stat").read_text().rpartition(")")[2].split()
            match = SCRIPT.search((place / "cmdline").read_text())
        except OSError:  # it has just ended
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            ticks = int(fields[11]) + int(fields[12])
            yield int(place.name), match[1] if match else "", ticks / TICKS


def kill(run: subprocess.Popen[bytes]) -> None:
    """Kill the whole process group, and wait until nothing of its session runs."""
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    until = time.monotonic() + 60
    while list(session(run.pid)):
        assert time.monotonic() < until, "a job outlived its process group"
        time.sleep(0.01)


def kill_in(run: subprocess.Popen[bytes], stage: str, seconds: float) -> str | None:
    """Kill a run when a stage has computed for some CPU seconds, or has just ended.

    A run that is past the stage is killed in the next later one that appears.

    Returns
    -------
    str or None
        The stages whose processes died, joined by `+`; None when the run had ended before.
    """
    later = LATE[LATE.index(stage) + 1 :] if stage in LATE else LATE
    target, spent = "planning" if stage == "planning" else "", dict[int, float]()
    while run.poll() is None:
        alive = list(session(run.pid))
        names = {name for _, name, _ in alive} - {""}
        if not target:
            target = next((name for name in (stage, *later) if name in names), "")
        if target:
            is_planning = target == "planning"
            spent |= {pid: cpu for pid, _, cpu in alive if (pid == run.pid) == is_planning}
            if sum(spent.values()) >= seconds or not (is_planning or target in names):
                kill(run)
                hit = "+".join(sorted(names, key=ORDER.index))
                return hit or ("planning" if is_planning else f"after {target}")
        time.sleep(0.02)
    return None


def finished(store: Path) -> dict[Path, Stamp]:
    """Return the stamp of every artifact; one that is computed again has another."""
    stamps = {}
    for place in store.glob("[!.]*/??/[!.]*"):
        stat = place.stat()
        stamps[place] = (stat.st_ino, 0 if place.is_dir() else stat.st_mtime_ns)
    return stamps


@dataclass
class Tally:
    """What became of a run that was killed again and again."""

    kills: Counter[str] = field(default_factory=Counter)
    again: list[str] = field(default_factory=list)
    starts: int = 0


def suffer(
    folder: Path, overrides: list[str], plan: dict[str, int], seed: int, longer: float = 1.0
) -> Tally:
    """Kill a workflow as planned, and let it end; the same command every time.

    Parameters
    ----------
    plan
        The number of kills by stage.
    longer
        What the moments of the long stages are multiplied by.
    """
    random, tally, store = np.random.default_rng(seed), Tally(), folder / "results/store"
    known: dict[Path, Stamp] = {}
    for stage in (name for name in ORDER for _ in range(plan.get(name, 0))):
        run = start(folder, overrides, folder / f"run{tally.starts}.log")
        tally.starts += 1
        moment = MOMENTS[stage] * (longer if stage in LONG else 1)
        hit = kill_in(run, stage, float(random.uniform(0, moment)))
        now = finished(store)
        tally.again += [str(p) for p, stamp in known.items() if "unfinished" not in p.parts
                        and now.get(p) != stamp]  # fmt: skip
        known |= now
        print(f"kill {tally.starts}: wanted {stage}, hit {hit}, {len(now)} artifacts", flush=True)
        if hit is None:
            assert run.returncode == 0, (folder / f"run{tally.starts - 1}.log").read_text()[-3000:]
            break
        tally.kills[hit] += 1
    log = folder / f"run{tally.starts}.log"
    run = start(folder, overrides, log)
    tally.starts += 1
    assert run.wait() == 0, log.read_text()[-3000:]
    now = finished(store)
    tally.again += [str(place) for place, stamp in known.items() if "unfinished" not in place.parts
                    and now.get(place) != stamp]  # fmt: skip
    return tally


def scores(folder: Path) -> pd.DataFrame:
    """Return the scores of a folder's only experiment without what was measured in time."""
    (place,) = folder.glob("results/*/scores.parquet")
    table = pd.read_parquet(place)
    return table.drop(columns=[name for name in table if re.fullmatch(MEASURED, name)])


def pieces(folder: Path) -> tuple[Counter[str], Counter[str]]:
    """Return how many pieces each stage has finished, by its own lines, and how many it has."""
    (place,) = folder.glob("results/*/plan.json")
    keys = json.loads(place.read_text())["keys"]
    lines = place.with_name("progress.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines if line]
    done = Counter(event["stage"] for event in events if "seconds" in event)
    return done, Counter({stage: len(listed) for stage, listed in keys.items()})
