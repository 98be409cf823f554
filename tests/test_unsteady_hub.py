"""A hub that fails three requests in ten and cuts three in ten short: right bytes all the same."""

import hashlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from unsteady_hub import UnsteadyHub

SOURCES = Path(__file__).parents[1] / "src"
CODE = """
import hashlib, json, sys, time
from lowrank_bench.download import hub
from lowrank_bench.errors import LowRankError
if {hurry}: time.sleep = lambda seconds: None
sums = dict()
try:
    names, commit = hub.list_files("a/b", "main", "model")
    for name in names:
        content = hub.fetch("a/b", name, commit, "model").read_bytes()
        sums[name] = hashlib.sha256(content).hexdigest()
except LowRankError as error:
    print(error)
print(json.dumps(sums))
"""


def download(port, folder, hurry=True):
    """Download everything in one process; return its lines, and the checksums of the files."""
    env = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(folder)}
    env |= {"HF_HUB_OFFLINE": "0", "PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCES)}
    code = CODE.format(hurry=hurry)
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=900)
    assert not done.stderr, done.stderr[-2000:]
    *lines, sums = done.stdout.strip().splitlines()
    return lines, json.loads(sums)


def contents(count, seed):
    """Files of 0 bytes to a megabyte."""
    draw = random.Random(seed)
    sizes = [draw.choice([0, 1, 1000, 300_000, 1_000_000]) for _ in range(count)]
    return {f"part{i}/file{i}.bin": draw.randbytes(size) for i, size in enumerate(sizes)}


def check(count, seed, folder):
    files = contents(count, seed)
    hub = UnsteadyHub(files, failing=0.3, cutting=0.3, seed=seed)
    lines, sums = download(hub.port, folder)
    assert lines == []
    assert sums == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    return hub.did


def test_right_bytes_in_one_invocation(tmp_path):
    did = check(12, 0, tmp_path)
    assert did["failed"] > 3
    assert did["cut"] > 3


@pytest.mark.campaign
def test_campaign_of_unsteady_hubs(tmp_path):
    runs = (check(50, seed, tmp_path / str(seed)) for seed in range(1, 21))
    total = sum(runs, start=Counter())
    print(f"1,000 files in 20 invocations, all right; the hub: {dict(total)}")


@pytest.mark.campaign
@pytest.mark.parametrize("kind", ["dead", "hanging", "failing"])
def test_a_hub_that_never_answers_costs_less_than_a_minute_and_one_line(tmp_path, kind):
    """With the limits that users have."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if kind == "hanging":
            listening.listen()
        port = listening.getsockname()[1]
        if kind == "failing":
            port = UnsteadyHub({"a": b"a"}, failing=1.0, cutting=0.0, seed=0).port
        start = time.monotonic()
        lines, sums = download(port, tmp_path, hurry=False)
        seconds = time.monotonic() - start
    print(f"{kind}: {seconds:.0f} s: {lines}")
    assert sums == {}
    assert len(lines) == 1
    assert seconds < 60
