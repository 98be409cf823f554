"""Mutation testing: change the sources in one place, and see whether a test notices.

    python tests/mutation/run.py [--size 600] [--seed 13] [--folder results/mutants]

Maps the tests to the functions that they call, draws a seeded sample of mutants, runs the tests
of each mutant's function up to the first failure, and prints the score: killed / valid. A mutant
is killed when a test fails, when no test can even be collected, or when it uses five times the
time of its tests or all memory. One whose function no test calls counts as a survivor. What was
done before is kept in the folder and not done again: empty it after an edit of the sources.
"""

import argparse
import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import coverage_map
from forked import PROJECT, End, Finder, fork, run_tests, warm_up
from sites import SOURCES, Mutant, function_at, sample

BUDGET = 15.0  # CPU seconds of the tests of one mutant, as measured without it
KILLED = {1: "a test fails", 2: "no test starts", 3: "pytest breaks", 4: "no test starts"}


def chosen_tests(
    mutant: Mutant, covering: dict[str, set[str]], seconds: dict[str, float]
) -> list[str]:
    """Return the tests of a mutant's function within the budget, cheap and narrow ones first."""
    line = function_at((SOURCES / mutant.path).read_text(), mutant.line)
    prefix = f"{mutant.path}:"
    calls = [f"{prefix}{line}"] if line else [key for key in covering if key.startswith(prefix)]
    names = {name for call in calls for name in covering.get(call, ())}
    breadth = Counter(name for tests in covering.values() for name in tests)
    chosen, total = [], 0.0
    for name in sorted(names, key=lambda name: ((0.05 + seconds[name]) * breadth[name], name)):
        if total + seconds[name] <= BUDGET:
            chosen.append(name)
            total += seconds[name]
    return chosen


def outcome(mutant: Mutant, tests: list[str], seconds: dict[str, float], log: Path) -> str:
    """Return why a mutant counts as killed, or `survived`, or `no test calls it`."""
    if not tests:
        return "no test calls it"
    text, path = mutant.source(), str(SOURCES / mutant.path)
    assert text is not None

    def work() -> int:
        sys.meta_path.insert(0, Finder(path.__eq__, lambda _: compile(text, path, "exec")))
        return run_tests(tests)

    end: End = fork(work, log, 15 + 5 * sum(seconds[name] for name in tests))
    if end.code == 0:
        return "survived"
    return KILLED[end.code] if isinstance(end.code, int) else f"ended by {end.code}"


def check(covering: dict[str, set[str]], seconds: dict[str, float], folder: Path) -> None:
    """Run every chosen test file without a mutant: what fails then is used no more."""
    by_file: dict[str, list[str]] = {}
    for name in sorted(seconds):
        by_file.setdefault(name.partition("::")[0], []).append(name)
    for file, names in by_file.items():
        if fork(lambda n=names: run_tests(n), folder / "check.log", 900).code:
            print(f"{file} fails in a fork without any mutant; it is left out", flush=True)
            for tests in covering.values():
                tests.difference_update(names)


def main() -> None:
    """Run the sample and print the score."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=600)
    parser.add_argument("--seed", type=int, default=13)
    parser.add_argument("--folder", type=Path, default=PROJECT / "results/mutants")
    parser.add_argument("--again", action="store_true", help="run the survivors once more")
    parser.add_argument("--check", action="store_true", help="first all tests without a mutant")
    words = parser.parse_args()
    words.folder.mkdir(parents=True, exist_ok=True)
    warm_up()
    coverage_map.record(words.folder)
    covering, seconds = coverage_map.load(words.folder)
    if words.check:
        check(covering, seconds, words.folder)
    place = words.folder / f"outcomes-{words.seed}.json"
    known: dict[str, str] = json.loads(place.read_text()) if place.exists() else {}
    drawn = words.folder / f"sample-{words.seed}-{words.size}.json"
    if not drawn.exists():
        drawn.write_text(json.dumps([asdict(m) for m in sample(words.size, words.seed)]))
    mutants = [Mutant(**facts) for facts in json.loads(drawn.read_text())]
    for number, mutant in enumerate(mutants, 1):
        lives = known.get(mutant.name) in ("survived", "no test calls it")
        if mutant.name not in known or (lives and words.again):
            tests = chosen_tests(mutant, covering, seconds)
            known[mutant.name] = outcome(mutant, tests, seconds, words.folder / "mutant.log")
            place.write_text(json.dumps(known, indent=1))
            print(f"{number}/{len(mutants)} {mutant.name}: {known[mutant.name]}", flush=True)
    counts = Counter(known[mutant.name] for mutant in mutants)
    killed = len(mutants) - counts["survived"] - counts["no test calls it"]
    print(dict(counts))
    print(f"killed {killed} of {len(mutants)}: {killed / len(mutants):.1%}")


if __name__ == "__main__":
    main()
