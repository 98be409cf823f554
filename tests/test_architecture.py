"""The rooms: the page that describes them, what compute functions may know, one way through."""

import ast
import inspect
import json
import re
import subprocess
import sys
import tomllib
from collections import Counter
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import pytest

PROJECT = Path(__file__).parents[1]
ROOT = PROJECT / "src/lowrank_bench"
PAGE = (PROJECT / "docs/architecture.md").read_text()
CONTRACTS = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["importlinter"]
COMPUTING = ("checkpoint", "download", "evaluate", "factorize", "report", "score")


def layers():
    """Return the level of each room, the lowest first."""
    (contract,) = (entry for entry in CONTRACTS["contracts"] if entry["type"] == "layers")
    listed = [line.split(" | ") for line in reversed(contract["layers"])]
    return {room: level for level, rooms in enumerate(listed) for room in rooms}


def test_the_page_names_every_room_and_each_exists():
    rows = re.findall(r"^\| (`[^|]+) \|", PAGE, re.M)
    named = [room for row in rows for room in re.findall(r"`(\w+)`", row)]
    rooms = {path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()}
    files = {path.stem for path in ROOT.glob("*.py")} - {"__init__"}
    assert len(named) == len(set(named))
    assert set(named) == rooms | files == set(layers())
    assert len(PAGE.splitlines()) <= 120


def test_the_page_lists_the_rooms_in_the_order_of_the_contract():
    rows = re.findall(r"^\| (`[^|]+) \|", PAGE, re.M)
    levels = [{layers()[room] for room in re.findall(r"`(\w+)`", row)} for row in rows]
    highest = [max(level) for level in levels]
    assert highest == sorted(highest, reverse=True)


def test_the_contracts_hold_with_few_exceptions():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    ignored = [entry for c in CONTRACTS["contracts"] for entry in c.get("ignore_imports", [])]
    assert len(ignored) < 5


def test_few_files_stand_beside_the_rooms():
    assert len([path for path in ROOT.iterdir() if path.is_file()]) <= 7  # with py.typed
    assert len(list(ROOT.glob("*.py"))) <= 6


def test_no_name_of_a_file_recurs_more_than_twice():
    names = Counter(path.name for path in ROOT.rglob("*.py") if path.name != "__init__.py")
    assert [name for name, count in names.items() if count > 2] == []


def functions(room):
    """Yield the functions and methods of a room, with their full names."""
    package = import_module(f"lowrank_bench.{room}")
    for found in walk_packages(package.__path__, f"{package.__name__}."):
        module = import_module(found.name)
        for value in vars(module).values():
            if getattr(value, "__module__", "") != module.__name__:
                continue
            if inspect.isfunction(value):
                yield f"{module.__name__}.{value.__name__}", value
            elif inspect.isclass(value):
                for name, method in vars(value).items():
                    if inspect.isfunction(method):
                        yield f"{module.__name__}.{value.__name__}.{name}", method


@pytest.mark.parametrize("room", COMPUTING)
def test_compute_functions_take_no_store_and_no_configuration(room):
    seen = 0
    for name, function in functions(room):
        for parameter in inspect.signature(function).parameters.values():
            said = str(parameter.annotation)
            assert not re.search(r"\b(Store|Config|Runner|Settings|Plan)\b", said), name
            assert parameter.name not in ("store", "config", "runner"), name
        seen += 1
    assert seen > 0


def test_planning_imports_no_torch():
    code = (
        "import lowrank_bench.plan, lowrank_bench.plan.grid, sys\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_methods_file_imports_no_torch_at_its_top():
    for file in (ROOT / "methods").glob("*.py"):
        tops = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.Import)]
        names = [alias.name for node in tops for alias in node.names]
        assert "torch" not in names, file.name


ONE_CELL = """
import json, sys
from collections import Counter
from pathlib import Path

from lowrank_bench.config import load_config
from lowrank_bench.plan.grid import make_plan
from lowrank_bench.stages.evaluate import CellStep
from lowrank_bench.stages.runner import Runner
from lowrank_bench.stages.settings import Settings
from lowrank_bench.store.store import Store

conf, store = sys.argv[1:]
overrides = ["model=[quick_bert]", "task=[quick_wnli]", "method=[svd]", "compressions=[0.5]"]
plan = make_plan(load_config(Path(conf), [*overrides, "model.quick_bert.recipe.epochs=1"]))
runner = Runner(Store(store), Settings(device="cpu"))
(cell,) = plan.evaluate[0].cells()
runner.ensure(CellStep(cell))  # makes all that the cell rests on
Path(store, "cell", cell.key[:2], f"{cell.key}.safetensors").unlink()
calls = Counter()

def room(frame):
    parts = frame.f_globals.get("__name__", "").split(".")
    return parts[1] if parts[0] == "lowrank_bench" and len(parts) > 1 else None

def note(frame, event, _):
    if event != "call" or room(frame) is None:
        return
    caller = frame.f_back
    while caller is not None and room(caller) is None:
        caller = caller.f_back
    if caller is not None and room(caller) != room(frame):
        name = f"{frame.f_globals['__name__']}.{frame.f_code.co_qualname}"
        if not frame.f_code.co_name.startswith("<"):
            calls[room(caller), room(frame), name] += 1

fresh = Runner(Store(store), Settings(device="cpu"))
sys.setprofile(note)
fresh.ensure(CellStep(cell))
sys.setprofile(None)
print(json.dumps([[*key, count] for key, count in calls.items()]))
"""


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """Return the calls between rooms while one cell is evaluated: from, to, function, number."""
    words = [sys.executable, "-c", ONE_CELL, str(PROJECT / "conf"), tmp_path_factory.mktemp("s")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_cell_never_climbs_from_a_room_to_a_higher_one(calls):
    level = layers()
    assert [call for call in calls if level[call[0]] <= level[call[1]]] == []


def test_a_stage_leaves_its_room_at_most_twenty_times_for_a_cell(calls):
    """Reading the checkpoint and its rows included; what compute functions call is theirs."""
    assert sum(count for caller, _, _, count in calls if caller == "stages") <= 20
    rooms = {callee for caller, callee, _, _ in calls if caller == "stages"}
    assert rooms <= {"store", "inputs", "methods", "device", "evaluate"}
