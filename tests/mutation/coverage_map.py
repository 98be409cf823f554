"""Which test calls which function of the mutated files, and for how many CPU seconds."""

import ast
import builtins
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from forked import PROJECT, Finder, fork
from sites import SOURCES, files

# These start processes, which mutants do not reach, or look at text alone.
SKIPPED = {
    *("test_workflow", "test_slurm", "test_run_all", "test_shared_store", "test_troubled_workflow"),
    *("test_repository", "test_architecture", "test_keys", "test_types", "test_submission"),
    *("test_other_device", "test_latency", "test_cards", "test_config", "test_hostile_config"),
    *("test_vision_files", "test_synthetic", "test_published", "test_escape", "test_report"),
    *("test_report_budget", "test_report_tables", "test_cli", "test_costs", "test_unsteady_hub"),
}
SLOWEST = 15.0  # CPU seconds of a test that is still taken
_HITS: set[str] = set()


class Recorder:
    """A plug-in of pytest that notes what each test has called."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.tests: dict[str, dict[str, Any]] = {}
        self.shared: dict[str, Any] = {"calls": set(), "seconds": 0.0}
        self.passed: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Note what is called from the start of a test to its end."""
        _HITS.clear()
        before, shared = time.process_time(), self.shared["seconds"]
        outcome = yield
        spent = time.process_time() - before - (self.shared["seconds"] - shared)
        self.tests[item.nodeid] = {"calls": sorted(_HITS), "seconds": spent}
        return outcome

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        """What several tests share counts for all tests of the file."""
        if fixturedef.scope == "function":
            return (yield)
        own = set(_HITS)
        _HITS.clear()
        before = time.process_time()
        try:
            return (yield)
        finally:
            self.shared["seconds"] += time.process_time() - before
            self.shared["calls"] |= _HITS
            _HITS.clear()
            _HITS.update(own)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the tests that pass."""
        if report.when == "call" and report.passed:
            self.passed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        """Write everything."""
        tests = {name: self.tests[name] for name in self.passed if name in self.tests}
        shared = {"calls": sorted(self.shared["calls"]), "seconds": self.shared["seconds"]}
        self.place.write_text(json.dumps({"shared": shared, "tests": tests}))


def record(folder: Path) -> None:
    """Run every test file once and note its calls, unless that was done since it changed."""
    for file in sorted((PROJECT / "tests").glob("test_*.py")):
        place = folder / f"{file.stem}.json"
        if file.stem in SKIPPED:
            continue
        if place.exists() and place.stat().st_mtime > file.stat().st_mtime:
            continue
        end = fork(lambda f=file, p=place: _recorded(f, p), folder / f"{file.stem}.log", 900)
        print(f"map: {file.stem}: {end.code}, {end.seconds:.0f} CPU s", flush=True)


def load(folder: Path) -> tuple[dict[str, set[str]], dict[str, float]]:
    """Return the tests by what they call, and the CPU seconds of each test."""
    covering: dict[str, set[str]] = {}
    seconds: dict[str, float] = {}
    for place in sorted(folder.glob("test_*.json")):
        content = json.loads(place.read_text())
        shared = content["shared"]
        for name, test in content["tests"].items():
            cost = test["seconds"] + shared["seconds"] / max(1, len(content["tests"]))
            if test["seconds"] + shared["seconds"] > SLOWEST:
                continue
            seconds[name] = cost
            for call in {*test["calls"], *shared["calls"]}:
                covering.setdefault(call, set()).add(name)
    return covering, seconds


def _recorded(file: Path, place: Path) -> int:
    builtins.__hit__ = _HITS.add  # type: ignore[attr-defined]
    wanted = {str(path) for path in files()}
    sys.meta_path.insert(0, Finder(wanted.__contains__, _noted))
    words = ["-q", "-p", "no:cacheprovider", "--tb=line", "--hypothesis-seed=0", str(file)]
    return int(pytest.main(words, plugins=[Recorder(place)]))


def _noted(path: str) -> CodeType:
    """Return a module's code with a note at the start of each function."""
    tree = ast.parse(Path(path).read_text())
    name = Path(path).relative_to(SOURCES).as_posix()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            note = ast.parse(f"__hit__({f'{name}:{node.lineno}'!r})").body[0]
            documented = ast.get_docstring(node) is not None
            node.body.insert(int(documented), note)
    return compile(ast.fix_missing_locations(tree), path, "exec")
