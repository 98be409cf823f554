"""Runs of the whole workflow in separate folders, with the CPU seconds of all their processes."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Python runs this at startup, and Snakemake passes its own environment on to the jobs.
NOTE_SECONDS = """
import atexit, os, sys, time
def note():
    script = os.path.basename(sys.argv[0]).split(".")[-2:][0]
    with open(os.environ["CPU_LOG"], "a") as file:
        file.write(f"{script} {time.process_time()}\\n")
atexit.register(note)
"""


@dataclass(frozen=True)
class Run:
    """One finished command.

    Attributes
    ----------
    cpu, wall
        Seconds; `cpu` is the sum over all processes that the command started and waited for.
    scripts
        For each script of the workflow, the CPU seconds of each process that ran it.
    """

    cpu: float
    wall: float
    scripts: Mapping[str, Sequence[float]] = field(default_factory=dict)


def snakemake(folder: Path, overrides: Sequence[str], *flags: str) -> Run:
    """Run this checkout's workflow in `folder`; results and store are written there."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--workflow-profile", str(ROOT / "profiles/default"), "--directory", str(folder)]
    command += ["--cores", "1", *flags]
    command += ["--config", f"overrides={json.dumps(list(overrides))}"]
    return timed(command, folder)


def timed(command: Sequence[str], folder: Path) -> Run:
    """Run a command in `folder`.

    Raises
    ------
    SystemExit
        When the command fails, with the end of its output.
    """
    folder.mkdir(parents=True, exist_ok=True)
    hooks, log = folder / "hooks", folder / "cpu.log"
    hooks.mkdir(exist_ok=True)
    (hooks / "sitecustomize.py").write_text(NOTE_SECONDS)
    log.unlink(missing_ok=True)
    paths = [str(hooks), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "CPU_LOG": str(log),
        # Snakemake sets this only for jobs with one thread; everything here runs on one.
        "OMP_NUM_THREADS": "1",
    }
    start, printed = time.perf_counter(), folder / "printed.log"
    with printed.open("w") as out:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT
        )
        # Of this process and its waited-for children only, whatever else runs on the machine.
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"error: {' '.join(command)}\n{printed.read_text()[-4000:]}")
    scripts: dict[str, list[float]] = {}
    for line in log.read_text().splitlines():
        name, seconds = line.rsplit(" ", 1)
        scripts.setdefault(name, []).append(float(seconds))
    return Run(used.ru_utime + used.ru_stime, wall, scripts)
