"""Seconds of calls that take turns, so that other load on the machine affects all of them."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch


class Clock:
    """Reads a device's time.

    One thread on the CPU is timed by its own CPU seconds, which do not grow when other processes
    share the core; several threads are timed by the wall clock, CUDA by events on the stream.

    Parameters
    ----------
    device
        The device that computes.
    threads
        Number of threads that compute on the CPU.
    """

    def __init__(self, device: torch.device, threads: int = 1) -> None:
        self.device = device
        self.alone = device.type == "cpu" and threads == 1

    @property
    def name(self) -> str:
        """Return the name of what is counted."""
        if self.device.type == "cuda":
            return "CUDA events"
        return "CPU seconds of one thread" if self.alone else "wall seconds"

    def stamp(self) -> Any:
        """Return the time now."""
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self.device))
            return event
        if self.device.type == "mps":
            torch.mps.synchronize()
        return time.thread_time() if self.alone else time.perf_counter()

    def between(self, start: Any, end: Any) -> float:
        """Return the seconds from one stamp to a later one."""
        if self.device.type == "cuda":
            end.synchronize()
            return float(start.elapsed_time(end)) / 1e3
        return float(end - start)

    def seconds(self, call: Callable[[], object]) -> float:
        """Return the seconds of one call."""
        start = self.stamp()
        call()
        return self.between(start, self.stamp())


def taken_in_turn(
    calls: Sequence[Callable[[], object]], clock: Clock, rounds: int, warm_up: int = 0
) -> list[list[float]]:
    """Return the seconds of each call in each round; warm-up rounds come first and do not count."""
    for _ in range(warm_up):
        for call in calls:
            call()
    times = [[clock.seconds(call) for call in calls] for _ in range(rounds)]
    return [list(column) for column in zip(*times, strict=True)]


def rounds_within(seconds: float, budget: float, least: int, most: int) -> int:
    """Return how many rounds of `seconds` fit a budget of seconds, between `least` and `most`."""
    return min(max(int(budget / max(seconds, 1e-9)), least), most)
