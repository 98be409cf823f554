"""Mutated configurations: every one is right, or refused in one line; nothing else happens."""

import copy
import math
import re
import shutil
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lowrank_bench.config import load_config
from lowrank_bench.config.compose import _compose, validated
from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.splits import split_and_range
from lowrank_bench.plan.grid import make_plan

CONF = Path(__file__).parents[1] / "conf"
# Small experiments that reach every section: texts and images, published files, grids, folders.
BASES = {
    "quickstart": ["model=[quick_bert,quick_resnet]", "task=[quick_cola,digits]"],
    "published": ["experiment=cifar10", "checkpoints=published", "model=[resnet20]"],
    "hub": ["experiment=minilm_glue", "task=[sst2]"],
    "folder": ["experiment=pfp_imagenet", "model=[resnet18_imagenet]"],
}
METHODS = {"quickstart": "method=[svd,messi,lp,pfp]"}
NUMBERS = [0, -1, 1, 2, 0.5, 1e-300, 1e308, 10**12, -(10**30), 2**63, float("inf"), float("nan")]
TEXTS = [
    "",
    " ",
    "a",
    "a\nb",
    "a\x00b",
    "..",
    "../../x",
    "-x",
    "--help",
    "/dev/null",
    "/dev/null/x",
]
TEXTS += [
    "{a}",
    "</script>",
    "${title}",
    "x" * 300,
    "é" * 99,
    "all",
    "train[",
    "train[a:b]",
    "~no/x",
]
TEXTS += [
    "train[5:2]",
    "train[:0]",
    "train[::]",
    "train[-5:]",
    "train[1e9:]",
    "a/b",
    "=1+1",
    "\ud800",
]
PLAIN = st.sampled_from([*NUMBERS, *TEXTS, None, True, False]) | st.text(max_size=8) | st.integers()
HOSTILE = PLAIN | st.lists(PLAIN, max_size=3) | st.dictionaries(st.sampled_from(TEXTS), PLAIN)


def times(count):
    """Return the settings of a test with so many random examples, the same in every run."""
    return settings(
        max_examples=count,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        database=None,
    )


@pytest.fixture(scope="module")
def bases():
    words = {name: [*BASES[name], *([METHODS[name]] if name in METHODS else [])] for name in BASES}
    return {name: _compose(CONF.resolve(), listed) for name, listed in words.items()}


def places(values, path=()):
    """Yield the path of every value and section."""
    parts = values.items() if isinstance(values, dict) else enumerate(values)
    for key, value in parts:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*path, key))


def mutate(values, draw):
    """Replace, remove, repeat or add something, at a place that `draw` chooses."""
    path = draw(st.sampled_from(sorted(places(values), key=repr)))
    section = values
    for key in path[:-1]:
        section = section[key]
    kind = draw(st.sampled_from(["replace", "replace", "replace", "remove", "repeat", "add"]))
    if kind == "remove":
        del section[path[-1]]
    elif kind == "repeat" and isinstance(section, list):
        section.append(copy.deepcopy(section[path[-1]]))
    elif kind == "add" and isinstance(section, dict):
        section[draw(st.sampled_from(TEXTS) | st.text(max_size=8))] = draw(HOSTILE)
    else:
        section[path[-1]] = draw(HOSTILE)


def refuse_or_check(load):
    """Load and plan; check what was accepted, or that the refusal is one short line."""
    start = time.process_time()
    try:
        config = load()
        check(config)
        plan = make_plan(config)
    except LowRankError as error:
        text = str(error)
        assert "\n" not in text
        assert len(text) < 1500
        result = text
    else:
        for stage, jobs in plan.stages().items():
            assert all(len(f"{job.name}.json".encode()) < 250 for job in jobs), stage
            assert not any("/" in job.name for job in jobs)
        result = config
    assert time.process_time() - start < 20
    return result


def check(config):
    """Check an accepted configuration by rules that are written here again."""
    values = config.model_dump()
    for path in places(values):
        value = values
        for key in path:
            value = value[key]
        inside = "params" in path or "grid" in path  # which the method checks
        if isinstance(value, float | int) and not inside:
            assert math.isfinite(value), path
            assert abs(value) <= 1e10, path
        if isinstance(value, str):
            assert len(value) <= 5000 or inside, path
            assert "\x00" not in value or inside, path
            if path[-1] == "split":
                name, rows = split_and_range(value)
                assert re.fullmatch(r"(?!.*\.\.)\w[\w.-]*", name)
                assert rows is None or len(range(*rows.indices(10**12))) > 0
        if isinstance(value, list) and not inside:
            assert len(value) <= 100_000, path
            plain = [repr(item) for item in value]
            assert len(set(plain)) == len(plain), path
    for task in config.task.values():
        splits = [entry.split for entry in task.evaluation]
        assert len(set(splits)) == len(splits)
        assert len(task.labels) != 1
    named = [config.name, *config.model, *config.task, *config.method, *config.select]
    assert all(re.fullmatch(r"\w[\w-]{0,99}", name) for name in named)
    assert config.store.strip()
    assert not Path(config.store).is_file()
    assert not config.store.startswith(("-", "/dev/null"))
    assert all(seed >= 0 for seed in config.seeds)
    assert all(0 < rate < 1 for rate in config.compressions)


def try_values(bases, data):
    name = data.draw(st.sampled_from(sorted(bases)))
    values = copy.deepcopy(bases[name])
    for _ in range(data.draw(st.sampled_from([1, 1, 2]))):
        mutate(values, data.draw)
    refuse_or_check(lambda: validated(values, CONF))


@times(200)
@given(data=st.data())
def test_mutated_values_are_right_or_refused(bases, data):
    try_values(bases, data)


@pytest.mark.campaign
@times(4000)
@given(data=st.data())
def test_many_mutated_values_are_right_or_refused(bases, data):
    try_values(bases, data)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Return a tree with a network, a task and a method, which is composed quickly."""
    conf = tmp_path_factory.mktemp("small") / "conf"
    chosen = ["model/quick_bert", "task/quick_cola", "method/svd", "method/lp"]
    for name in ("config", *chosen):
        (conf / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CONF / f"{name}.yaml", conf / f"{name}.yaml")
    (conf / "experiment").mkdir()
    (conf / "experiment/quickstart.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /model: [quick_bert]\n"
        "  - override /task: [quick_cola]\n  - override /method: [svd, lp]\n"
        "name: quickstart\ntitle: Small\ncompressions: [0.5]\ntask:\n  quick_cola: {note: x}\n"
    )
    return conf


SIGNS = st.sampled_from([*"[]{}:,&*!|>'\"%@`#-?~=$/\\ \n\t\x00é0aN.+<", "${title}", "\n  "])


def try_file(small, data):
    """Mutate the text of a file of the tree."""
    names = ["config.yaml", "experiment/quickstart.yaml", "model/quick_bert.yaml"]
    names += ["task/quick_cola.yaml", "method/lp.yaml"]
    file = small / data.draw(st.sampled_from(names))
    text = file.read_text()
    changed = text
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(changed)))
        cut = data.draw(st.sampled_from([0, 0, 1, 5, 40]))
        added = "".join(data.draw(st.lists(SIGNS, max_size=3)))
        changed = changed[:place] + added + changed[place + cut :]
    try:
        file.write_text(changed)
        refuse_or_check(lambda: load_config(small))
    finally:
        file.write_text(text)


def try_override(small, data):
    keys = [
        "seeds",
        "title",
        "store",
        "name",
        "plugins",
        "recipe.epochs",
        "model",
        "task",
        "method",
    ]
    keys += ["task.quick_cola.labels", "task.quick_cola.evaluation", "method.lp.grid", "experiment"]
    keys += [
        "compressions",
        "compressions.x",
        "seeds.0",
        "hydra.run.dir",
        "+a",
        "~task",
        "++b.c",
        "",
    ]
    key = data.draw(st.sampled_from(keys) | st.text(max_size=6))
    value = data.draw(st.lists(SIGNS, max_size=6).map("".join) | HOSTILE.map(str))
    refuse_or_check(lambda: load_config(small, [f"{key}={value}"]))


@times(40)
@given(data=st.data())
def test_mutated_files_are_right_or_refused(small, data):
    try_file(small, data)


@times(40)
@given(data=st.data())
def test_random_overrides_are_right_or_refused(small, data):
    try_override(small, data)


@pytest.mark.campaign
@times(1000)
@given(data=st.data())
def test_many_mutated_files_are_right_or_refused(small, data):
    try_file(small, data)


@pytest.mark.campaign
@times(1000)
@given(data=st.data())
def test_many_random_overrides_are_right_or_refused(small, data):
    try_override(small, data)


BOMBS = {
    "aliases": "".join(
        f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" if n else "a0: &a0 [x,x]\n"
        for n in range(12)
    ),
    "itself": "a: &a [*a]\n",
    "references": "a0: xxxxxxxx\n"
    + "".join(f'a{n}: "${{a{n - 1}}}${{a{n - 1}}}"\n' for n in range(1, 40)),
    "depth": "a: " + "[" * 5000 + "]" * 5000 + "\n",
    "size": "a: [" + "x, " * 400_000 + "]\n",
    "digits": f"seeds: [{'1' * 5000}]\n",
    "date": "title: 2021-13-45\nseeds: [2021-13-45]\n",
    "hydra": "hydra: {run: {dir: /elsewhere/x}}\n",
    "list": "model: [a]\n",
    "null": "task: null\n",
    "text": "method: svd\n",
    "entry": "model: {quick_bert: [1]}\n",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_file_that_would_grow_or_is_no_mapping_is_refused_by_name(small, name):
    file = small / "experiment/quickstart.yaml"
    text = file.read_text()
    kept = "\n".join(line for line in text.splitlines() if not BOMBS[name].startswith(line[:5]))
    try:
        file.write_text((text if name != "digits" else kept) + BOMBS[name])
        message = refuse_or_check(lambda: load_config(small))
    finally:
        file.write_text(text)
    assert isinstance(message, str)
    assert "experiment/quickstart.yaml" in message or name in ("references", "digits", "date")


def test_bytes_that_are_no_text_are_refused_by_name(small):
    file = small / "method/lp.yaml"
    text = file.read_bytes()
    try:
        file.write_bytes(b"# @package method.lp\nname: \xff\xfe\n")
        assert "method/lp.yaml is not UTF-8" in refuse_or_check(lambda: load_config(small))
    finally:
        file.write_bytes(text)


def test_an_experiment_with_too_many_cells_is_refused_before_it_is_planned(small):
    many = yaml.safe_dump([(n + 1) / 102 for n in range(100)], default_flow_style=True).strip()
    words = [f"compressions={many}".replace("\n", " "), f"seeds={list(range(900))}"]
    message = refuse_or_check(lambda: load_config(small, words))
    assert "at most 100,000" in message
    grid = f"method.lp.grid={{p: {[1 + n / 999 for n in range(900)]}, center: [true, false]}}"
    assert len(grid) > 10_000  # so long an override is refused; a file may hold it
    assert "at most 10,000" in refuse_or_check(lambda: load_config(small, [grid]))
