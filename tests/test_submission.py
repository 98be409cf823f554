"""A local run does no work of its own while its jobs run."""

import subprocess
import sys

import pytest

# Counts how often Snakemake wakes up to look at waiting jobs.
SNAKEFILE = """
import threading
from lowrank_bench.stages.submission import lift_rate
looks, timer = [], threading.Timer
def counted(*given):
    looks.append(given)
    return timer(*given)
threading.Timer = counted
rule all:
    input: expand("{{number}}.txt", number=range(4))
rule one:
    output: "{{number}}.txt"
    shell: "touch {{output}}"
onstart:
    {lift}
onsuccess:
    print("looks:", len(looks), flush=True)
"""


@pytest.mark.parametrize(("lift", "looks"), [("lift_rate(workflow)", False), ("pass", True)])
def test_a_local_run_does_not_poll_waiting_jobs(tmp_path, lift, looks):
    (tmp_path / "Snakefile").write_text(SNAKEFILE.format(lift=lift))
    words = [sys.executable, "-m", "snakemake", "--cores", "1"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all((tmp_path / f"{number}.txt").exists() for number in range(4))
    number = int(done.stdout.partition("looks: ")[2].split()[0])
    assert (number > 0) == looks
