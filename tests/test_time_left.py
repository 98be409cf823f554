"""The estimate of the time left, on recorded runs and on plans whose answer is known."""

import itertools
import json
import random
from pathlib import Path

import pytest

from lowrank_bench.plan.work import Piece, Process
from lowrank_bench.stages.progress import in_words
from lowrank_bench.stages.time_left import Corrections, TimeLeft, makespan, price_of, work_of

RECORDED = Path(__file__).parent / "recorded"
WITHIN = 1.5  # of the truth, at every line
FROM = 0.2  # of the wall time
UNITS = {"s": 1, "min": 60, "h": 3600}


def recorded(name):
    """Return a recorded run: its work, its events, the slots, and when it began and ended."""
    run = json.loads((RECORDED / f"{name}.json").read_text())
    jobs = []
    for job, text in zip(run["jobs"], run["pieces"], strict=True):
        listed = [[int(number) for number in piece.split()] for piece in text.split(";") if piece]
        named = [[f"{job['name']} {number}", kinds] for number, kinds in enumerate(listed)]
        jobs.append(job | {"pieces": named})
    now, events = 0.0, []
    for event in run["events"].split(";"):
        since, number, *piece = event.split()
        now += float(since)
        job = jobs[int(number)]
        events.append({"t": now, "job": job["name"]})
        if piece:
            events[-1]["key"] = job["pieces"][int(piece[0])][0]
            events[-1]["part"] = float(piece[1]) if len(piece) > 1 else 1.0
    return {"kinds": run["kinds"], "jobs": jobs}, events, run["slots"], run["seconds"]


def lines(name):
    """Yield what each line of a recorded run would say, and the truth, in seconds."""
    work, events, slots, seconds = recorded(name)
    missing = {key for job in work["jobs"] for key, _ in job["pieces"]}
    estimate, due = TimeLeft(work, slots), 0.0
    for event in events:
        estimate.note(event)
        if event.get("part") == 1:
            missing.discard(event["key"])
        if "key" in event and event["t"] >= due:
            due = event["t"] + 1
            left = estimate.seconds(missing, lambda job: False, event["t"])
            number, unit = in_words(left).split()
            yield event["t"] / seconds, float(number) * UNITS[unit], seconds - event["t"]


@pytest.mark.parametrize("name", sorted(path.stem for path in RECORDED.glob("*.json")))
def test_the_time_left_is_right_within_a_factor_after_the_first_fifth(name):
    told = [line for line in lines(name) if line[0] >= FROM and line[2] > 10]
    worst = max(max(said / true, true / said) for _, said, true in told)
    print(f"{name}: {len(told)} lines, the worst off by a factor of {worst:.2f}")
    assert len(told) > 20
    assert worst <= WITHIN


def test_jobs_are_put_on_slots_as_they_become_ready():
    assert makespan([3, 2, 2], [(), (), ()], [False] * 3, 1) == 7
    assert makespan([2, 2, 3], [(), (), ()], [False] * 3, 2) == 4
    assert makespan([3, 2, 2], [(), (0,), (1,)], [False] * 3, 2) == 7
    assert makespan([0, 2, 2], [(), (0,), (0,)], [False] * 3, 2) == 2
    assert makespan([], [], [], 2) == 0


def test_no_schedule_is_shorter_than_the_work_or_the_longest_chain():
    rng = random.Random(0)
    for _ in range(200):
        count, slots = rng.randrange(1, 9), rng.randrange(1, 4)
        seconds = [rng.choice([0, 1, 2.5, 7]) for _ in range(count)]
        after = [[n for n in range(number) if rng.random() < 0.3] for number in range(count)]
        chain: list[float] = []
        for number in range(count):
            # A job that is over is waited for by nobody, whatever it waited for.
            before = [chain[n] for n in after[number] if seconds[n]]
            chain.append(seconds[number] + max(before, default=0) if seconds[number] else 0)
        length = makespan(seconds, after, [False] * count, slots)
        least = max(sum(seconds) / slots, *chain)
        assert least - 1e-9 <= length <= sum(seconds) / slots + max(chain) + 1e-9


def test_what_was_seen_corrects_the_special_first_and_the_general_a_little():
    svd, lp = ("compress", "embedding", "svd", "a"), ("compress", "embedding", "lp", "a")
    corrections = Corrections([(svd, 50.0), (lp, 100.0)])
    for _ in range(50):
        corrections.add([(svd, 1.0)], 3 * price_of(svd))
    assert corrections.price(svd, 1.0) == pytest.approx(3 * price_of(svd), rel=0.1)
    assert corrections.price(lp, 1.0) == pytest.approx(3 * price_of(lp), rel=0.1)
    for _ in range(50):
        corrections.add([(lp, 2.0)], 2 * price_of(lp))
    assert corrections.price(lp, 1.0) == pytest.approx(price_of(lp), rel=0.1)
    assert corrections.price(svd, 1.0) == pytest.approx(3 * price_of(svd), rel=0.1)


def plan_of(count, kind=("train", "text", "net", "task")):
    pieces = tuple(Piece(f"piece {number}", ((kind, 10.0),)) for number in range(count))
    start = ((("start", "text"), 1.0),)
    return work_of([Process("checkpoint", "job", start, pieces)])


def test_the_time_left_counts_down_while_a_piece_is_computed():
    estimate = TimeLeft(plan_of(4), 1)
    missing = {f"piece {number}" for number in range(4)}
    estimate.note({"t": 0.0, "job": "checkpoint/job"})
    told = [estimate.seconds(missing, lambda job: False, now) for now in range(5)]
    assert [a - b for a, b in itertools.pairwise(told)] == pytest.approx([1] * 4)


def test_parts_of_a_training_tell_how_long_the_rest_takes():
    estimate = TimeLeft(plan_of(1), 1)
    estimate.note({"t": 0.0, "job": "checkpoint/job"})
    for number in range(1, 9):  # a hundred times slower than the price
        event = {"t": 100.0 * number, "job": "checkpoint/job", "key": "piece 0"}
        estimate.note(event | {"part": number / 10})
    left = estimate.seconds({"piece 0"}, lambda job: False, 800.0)
    assert left == pytest.approx(200, rel=0.3)


def test_a_job_that_is_over_takes_no_time_whatever_became_of_its_pieces():
    estimate = TimeLeft(plan_of(4), 1)
    missing = {f"piece {number}" for number in range(4)}
    assert estimate.seconds(missing, lambda job: True, 0.0) == 0
    assert estimate.seconds(set(), lambda job: False, 0.0) == 0
    assert estimate.seconds(missing, lambda job: False, 0.0) > 0


def test_times_are_said_as_coarse_as_they_are_known():
    seconds = (0, 4, 44, 99, 105, 170, 565, 1000, 5000, 9000)
    said = ["5 s", "5 s", "45 s", "100 s", "2 min", "3 min", "9.5 min", "17 min", "83 min"]
    assert [in_words(number) for number in seconds] == [*said, "2.5 h"]
