"""An estimate of the time that an experiment still takes, from the work that is left of each kind.

Every kind of work has a price: seconds for one unit of it on an ordinary core, measured once
(`PRICES`). What the run itself shows corrects the prices, from the general to the special: all that
it has done so far says how fast the machine is, all trainings how long trainings take here, all
trainings of one network how long those of that network take. A kind that was not seen yet has the
correction of the most special group that it belongs to. The corrected pieces are then put on the
cores in the order of the pipeline, as Snakemake does.
"""

import heapq
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lowrank_bench.plan.work import Process

Kind = tuple[str, ...]
Work = Sequence[tuple[Kind, float]]

# Seconds of one unit (`plan.work`) on one core of a server of 2025: least squares over the CPU
# seconds of a recorded run of the quickstart on three of its networks and four of its tasks. Those
# of the report are its wall time, divided as that of the scores; of latency, a guess.
PRICES: dict[Kind, float] = {
    ("process",): 1.5,
    ("start", "matrix"): 1.6,
    ("start", "text"): 4.9,
    ("start", "image"): 1.9,
    ("take",): 1.0,
    ("train", "text"): 0.35,
    ("train", "image"): 1.1,
    ("load", "text"): 0.08,
    ("load", "image"): 0.28,
    ("load",): 0.1,
    ("predict", "text"): 0.11,
    ("predict", "image"): 0.03,
    ("predict",): 0.1,
    ("insert", "embedding"): 0.007,
    ("insert",): 0.09,
    ("fact", "fisher"): 0.05,
    ("fact", "inputs"): 0.5,
    ("fact", "read", "embedding"): 0.01,
    ("fact", "read"): 0.3,
    ("fact",): 0.04,
    ("compress", "embedding", "frequency_blocks"): 0.05,
    ("compress", "embedding", "frequency_sparse"): 0.66,
    ("compress", "embedding", "irls"): 0.10,
    ("compress", "embedding", "l21"): 0.07,
    ("compress", "embedding", "lowner"): 0.07,
    ("compress", "embedding", "messi"): 0.21,
    ("compress", "embedding"): 0.015,
    ("compress",): 0.03,
    ("score",): 4.0,
    ("score each",): 0.008,
    ("latency",): 5.0,
    ("latency each",): 1.0,
    ("tables",): 1.5,
    ("tables each",): 0.001,
    ("figures",): 4.0,
    ("figures each",): 2.0,
    ("report",): 4.0,
    ("report each",): 0.0,
}
PROCESS = ("process",)  # until a job begins: Snakemake, and the start of Python
OTHER = 1.0  # seconds of a kind without a price
TRUST = 0.1  # in the correction around a group before it is seen, as a share of all its work
FIRM = 2.0  # seconds of work at the pace of the prices, taken for seen before any is
MEMORY = 300.0  # seconds of work after which what they showed of the pace counts half
AT_LEAST = 0.1  # of its price is left of a piece that takes longer than expected


@dataclass
class _Seen:
    """What was seen of one group of kinds: seconds, and what they would have been by the prices."""

    seconds: float = 0.0
    priced: float = 0.0


def price_of(kind: Kind) -> float:
    """Return the seconds of one unit of a kind, by the most special entry of the table."""
    for length in range(len(kind), 0, -1):
        if kind[:length] in PRICES:
            return PRICES[kind[:length]]
    return OTHER


class Corrections:
    """What the prices are multiplied by, from what was seen.

    The pace of the machine is that of the last minutes, since others come and go on it; how kinds
    of work differ from their prices at that pace is remembered for good.

    Parameters
    ----------
    whole
        All work of the plan: a few small pieces say little of a group of large ones.
    """

    def __init__(self, whole: Work) -> None:
        self._whole: dict[Kind, float] = {}
        for kind, amount in whole:
            for length in range(len(kind) + 1):
                before = self._whole.get(kind[:length], 0.0)
                self._whole[kind[:length]] = before + price_of(kind) * amount
        self._seen: dict[Kind, _Seen] = {}
        self._pace = _Seen(FIRM, FIRM)

    def add(self, work: Work, seconds: float, weight: float = 1.0) -> None:
        """Note that some work took so many seconds; each kind has its share of them."""
        # The differences between kinds first, so that the pace does not hang on which kind it was.
        expected = [price_of(kind) * amount * self._factor(kind) for kind, amount in work]
        pace, kept = self._pace, 0.5 ** (weight * seconds / MEMORY)
        pace.seconds = kept * pace.seconds + weight * seconds
        pace.priced = kept * pace.priced + weight * sum(expected)
        scale = seconds * pace.priced / pace.seconds / max(sum(expected), 1e-9)
        for (kind, amount), share in zip(work, expected, strict=True):
            priced = price_of(kind) * amount
            for length in range(len(kind) + 1):  # of 0: all kinds
                seen = self._seen.setdefault(kind[:length], _Seen())
                seen.seconds += weight * share * scale
                seen.priced += weight * priced

    def price(self, kind: Kind, amount: float) -> float:
        """Return the seconds that so much of a kind is expected to take."""
        pace = self._pace.seconds / self._pace.priced
        return price_of(kind) * amount * self._factor(kind) * pace

    def _factor(self, kind: Kind) -> float:
        """Return what a kind takes at the machine's pace, in units of its price."""
        factor = 1.0
        for length in range(len(kind) + 1):
            seen = self._seen.get(kind[:length])
            if seen is None:
                break
            # As if a part of the group had shown the correction of the group around it.
            trust = TRUST * self._whole.get(kind[:length], 0.0)
            factor = (seen.seconds + trust * factor) / max(seen.priced + trust, 1e-12)
        return factor


@dataclass
class _Job:
    """A job of the plan, in numbers of kinds, and how far it is by the events of its process."""

    start: list[int]
    pieces: dict[str, list[int]]
    after: list[int]
    since: float | None = None  # of the last event of a process that runs it
    started: bool = False  # whether that process has finished a piece or a part of one
    part: float = 0.0  # of the piece that it is at


class TimeLeft:
    """Estimates how long an experiment still takes.

    Parameters
    ----------
    work
        The work as `work_of` lists it for the plan.
    slots
        Number of jobs that run side by side.
    """

    def __init__(self, work: Mapping[str, Any], slots: int) -> None:
        self.slots = max(1, slots)
        self._finished: set[str] = set()
        self._kinds = [(tuple(kind), float(amount)) for kind, amount in work["kinds"]]
        listed = [number for job in work["jobs"] for number in job["start"]]
        listed += [n for job in work["jobs"] for _, kinds in job["pieces"] for n in kinds]
        self._corrections = Corrections([self._kinds[number] for number in listed])
        self._jobs = {
            job["name"]: _Job(job["start"], dict(job["pieces"]), job["after"])
            for job in work["jobs"]
        }

    def note(self, event: Mapping[str, Any], weight: float = 1.0) -> None:
        """Take in an event of a job.

        Parameters
        ----------
        event
            `t` and `job`: its process has begun; with a `key` as well, that piece is finished, or
            the `part` of it.
        weight
            Of the seconds that it shows.
        """
        job = self._jobs.get(event["job"])
        if job is None:
            return
        if "key" not in event:
            job.since, job.started, job.part = event["t"], False, 0.0
            return
        if job.since is None or event["key"] not in job.pieces:
            return
        part = event.get("part", 1.0)
        fresh = max(0.0, part - job.part)
        kinds = [self._kinds[number] for number in job.pieces[event["key"]]]
        work = [(kind, amount * fresh) for kind, amount in kinds]
        work += [] if job.started else [self._kinds[number] for number in job.start]
        self._corrections.add(work, event["t"] - job.since, weight)
        if part == 1:
            self._finished.add(event["key"])
        job.since, job.started, job.part = event["t"], True, part if part < 1 else 0.0

    def forget_processes(self) -> None:
        """Take all processes for ended, as they are when the experiment is started again."""
        self._finished.clear()
        for job in self._jobs.values():
            job.since, job.started, job.part = None, False, 0.0

    def seconds(
        self, missing: Collection[str], is_over: Callable[[str], bool], now: float
    ) -> float:
        """Return the seconds that are left.

        Parameters
        ----------
        missing
            Keys of the pieces that are not in the store.
        is_over
            Whether the job of this name is over, whatever its pieces became.
        now
            In the unit of the events' `t`.
        """
        prices = [self._corrections.price(kind, amount) for kind, amount in self._kinds]
        left = [
            0.0 if is_over(name) else self._left(job, missing, now, prices)
            for name, job in self._jobs.items()
        ]
        running = [job.since is not None for job in self._jobs.values()]
        return makespan(left, [job.after for job in self._jobs.values()], running, self.slots)

    def _left(
        self, job: _Job, missing: Collection[str], now: float, prices: Sequence[float]
    ) -> float:
        """Return the seconds that a job still takes by itself."""
        pieces = [
            sum(prices[number] for number in kinds)
            for key, kinds in job.pieces.items()
            if key in missing and key not in self._finished
        ]
        if job.pieces and not pieces:
            return 0.0
        first = pieces[0] * (1 - job.part) if pieces else 0.0
        if not job.started:
            first += sum(prices[number] for number in job.start)
        if job.since is None:
            first += self._corrections.price(PROCESS, 1.0)
        else:
            first = max(AT_LEAST * first, first - (now - job.since))
        return first + sum(pieces[1:])


def makespan(
    seconds: Sequence[float],
    after: Sequence[Collection[int]],
    running: Sequence[bool],
    slots: int,
) -> float:
    """Return how long jobs take when each starts as soon as a slot is free and it may.

    Parameters
    ----------
    seconds
        Of each job; 0 for one that is over.
    after
        For each job the numbers of those that it waits for, all smaller than its own.
    running
        Whether it has a slot already.
    slots
        Number of jobs that run at the same time.
    """
    open_jobs = {number for number, length in enumerate(seconds) if length > 0}
    waits = {number: {n for n in after[number] if n in open_jobs} for number in open_jobs}
    followers: dict[int, list[int]] = {}
    for number, before in waits.items():
        for other in before:
            followers.setdefault(other, []).append(number)
    # Those that run come first, then those late in the pipeline: a network is finished with first.
    ready = [(not running[n], -n) for n in open_jobs if not waits[n]]
    heapq.heapify(ready)
    busy: list[tuple[float, int]] = []
    now = 0.0
    while ready or busy:
        while ready and len(busy) < slots:
            _, negative = heapq.heappop(ready)
            heapq.heappush(busy, (now + seconds[-negative], -negative))
        now, done = heapq.heappop(busy)
        for number in followers.get(done, ()):
            waits[number].discard(done)
            if not waits[number]:
                heapq.heappush(ready, (True, -number))
    return now


def work_of(listed: Sequence[Process]) -> dict[str, Any]:
    """Return the work of a plan's jobs as JSON holds it: every kind once, and numbers for it."""
    kinds: dict[tuple[Kind, float], int] = {}

    def numbers(work: Work) -> list[int]:
        """Return the number of each kind of work."""
        return [kinds.setdefault((kind, amount), len(kinds)) for kind, amount in work]

    jobs = [
        {
            "name": f"{process.stage}/{process.name}",
            "start": numbers(process.start),
            "pieces": [[piece.key, numbers(piece.work)] for piece in process.pieces],
            "after": list(process.after),
        }
        for process in listed
    ]
    return {"kinds": [[list(kind), amount] for kind, amount in kinds], "jobs": jobs}
