"""A card belongs to one process at a time and is released however the process ends."""

import os
import signal
import subprocess
import sys
import time

import pytest

from lowrank_bench.errors import LowRankError
from lowrank_bench.stages import cards

HOLD = """
import os, sys, time
from lowrank_bench.stages.cards import take_cards
take_cards(int(sys.argv[1]))
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def environment(tmp_path):
    return {**os.environ, "CUDA_VISIBLE_DEVICES": "0,1,2", "TMPDIR": str(tmp_path)}


def hold(environment, wanted, seconds=60.0):
    command = [sys.executable, "-c", HOLD, str(wanted), str(seconds)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **pipes)


def test_no_two_processes_get_the_same_card(environment):
    processes = [hold(environment, 1) for _ in range(3)]
    try:
        assert sorted(p.stdout.readline().strip() for p in processes) == ["0", "1", "2"]
    finally:
        for process in processes:
            process.kill()


def test_a_job_waits_for_cards_and_gets_those_of_a_killed_job(environment):
    first = hold(environment, 2)
    taken = first.stdout.readline().strip()
    second = hold(environment, 2, 0)
    try:
        assert "waiting for 2 of 3 cards" in second.stderr.readline()
        time.sleep(0.2)
        assert second.poll() is None
        first.send_signal(signal.SIGKILL)
        assert len(set(second.stdout.readline().strip().split(",")) & set(taken.split(","))) >= 1
        assert second.wait() == 0
    finally:
        first.kill()
        second.kill()


def test_cards_assigned_by_a_scheduler_are_used_unchanged(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5f1,GPU-8a2")
    cards.take_cards(2)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-5f1,GPU-8a2"
    with pytest.raises(LowRankError, match="asks for gpu=3, this machine shows 2"):
        cards.take_cards(3)


def test_a_machine_without_cards_is_left_as_it_is(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    cards.take_cards(1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
