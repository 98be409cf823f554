"""CPU seconds and peak memory of one call against another, on one thread."""

import argparse
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context

import torch
from torch import Tensor

KIB = 1024 if sys.platform != "darwin" else 1  # the unit of ru_maxrss


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    name
        What was run, and against which reference.
    time_ratio
        Our CPU seconds over those of the reference; None if there is no reference.
    memory_ratio
        Peak memory that ours adds, in float64 copies of the matrix; None if not measured.
    note
        The seconds themselves, sizes, or anything else that the reader must know.
    """

    name: str
    time_ratio: float | None
    memory_ratio: float | None = None
    note: str = ""


def show(description: str, *sections: Callable[[bool], Iterator[Row]]) -> None:
    """Print the lines of each section; a section is called with whether `--quick` was given."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    print(f"{'CPU':>7} {'memory':>7}  what (memory in float64 copies of the matrix)")
    for section in sections:
        for row in section(quick):
            ratios = (
                f"{r:7.3f}" if r is not None else "      -"
                for r in (row.time_ratio, row.memory_ratio)
            )
            print(*ratios, f" {row.name}: {row.note}", flush=True)


def cpu_seconds(call: Callable[[], object]) -> float:
    """Return the CPU seconds of one call, over all threads of this process."""
    start = time.process_time()
    call()
    return time.process_time() - start


def interleaved(*calls: Callable[[], object], repeats: int = 3) -> list[float]:
    """Return the minimum CPU seconds of each call, run in turn: ours, theirs, ours, theirs, …

    Taking turns spreads other load on the machine evenly over all of them.
    """
    rounds = [[cpu_seconds(call) for call in calls] for _ in range(repeats)]
    return [min(times) for times in zip(*rounds, strict=True)]


def peak_copies(make: Callable[[], Tensor], work: Callable[[Tensor], object]) -> float:
    """Return the peak memory that `work(make())` adds, in float64 copies of the matrix.

    It runs in a fresh process, so both must be module-level functions. A first call on a few rows
    loads the libraries; the input itself is not counted.
    """
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_peak, args=(make, work, sender))
    process.start()
    sender.close()
    try:
        added, entries = receiver.recv()
    except EOFError:
        raise RuntimeError(f"the memory run of {work} ended without a result") from None
    finally:
        process.join()
    return added / (8 * entries)


def _peak(make: Callable[[], Tensor], work: Callable[[Tensor], object], sender: object) -> None:
    torch.set_num_threads(1)
    matrix = make()
    work(matrix[: 2 * matrix.shape[1]].clone())
    before = _resident()
    reset = _reset_peak()
    work(matrix)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB if not reset else _peak_kept()
    sender.send((max(0, peak - before), matrix.numel()))


def _status(field: str) -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def _resident() -> int:
    """Return the current resident bytes; if the system does not report them, the peak so far."""
    try:
        return _status("VmRSS:")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB


def _peak_kept() -> int:
    return _status("VmHWM:")


def _reset_peak() -> bool:
    """Reset the peak, so that creating the input does not hide what comes after it."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return False
    return True
