"""Claims of the repository about itself: pins, links, and the page on adding a method."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parents[1]
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lines):
    parts = (line.partition("==") for line in lines if not line.startswith("#"))
    return {plain(name): version for name, _, version in parts if version}


LOCK = pins((PROJECT / "requirements.lock").read_text().splitlines())


def test_the_lock_file_pins_every_dependency():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {plain(re.match(r"[\w.-]+", text)[0]) for text in asked}
    assert names <= set(LOCK)
    assert LOCK["torch"] == "2.13.0"


def test_the_conda_environment_has_the_versions_of_the_lock_file():
    parts = yaml.safe_load((PROJECT / "environment.yml").read_text())["dependencies"]
    pinned = pins(next(part["pip"] for part in parts if isinstance(part, dict)))
    assert len(pinned) > 10
    assert pinned.items() <= LOCK.items()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


PAGE = (PROJECT / "docs/add-a-method.md").read_text()
METHOD, TEST = re.findall(r"```python\n(.*?)```", PAGE, re.S)[:2]
CONFIG = re.search(r"```yaml\n(.*?)```", PAGE, re.S)[1]
# What a user of the new method does; prints its names, its labels and its distance to the SVD.
USE = """
import json, torch
from pathlib import Path
from lowrank_bench import low_rank
from lowrank_bench.config import load_config
from lowrank_bench.methods import method_names
from lowrank_bench.plan.grid import make_plan
plan = make_plan(load_config(Path("conf"), WORDS))
labels = sorted({spec.label for job in plan.evaluate for spec in job.specs})
A = torch.randn(60, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
gap = low_rank(A, 3, "rowsvd", power=0).dense() - low_rank(A, 3, "svd").dense()
print(json.dumps([method_names(), labels, float(gap.abs().max())]))
"""


def run(words, folder, source):
    """Run a command in a folder with the package at `source`; return what it prints."""
    env = os.environ | {"PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    env.pop("PYTEST_ADDOPTS", None)
    command = [sys.executable, *words]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def use(folder, source, *words):
    """Check that the new method is used like any other, under configuration overrides."""
    code = USE.replace("WORDS", repr([*words, "method=[svd,rowsvd]"]))
    names, labels, gap = json.loads(run(["-c", code], folder, source))
    assert "rowsvd" in names
    assert labels == ["rowsvd (power=-0.5)", "rowsvd (power=-1)", "svd"]
    assert gap < 1e-10


def passed(report):
    """Return how many tests of pytest's report passed."""
    assert not re.search(r"\d+ failed", report), report
    return int(re.search(r"(\d+) passed", report)[1])


def write_folder(folder):
    """Write the files of the page's fourth section into a folder of plug-ins."""
    for name, text in (
        ("rowsvd.py", METHOD),
        ("conf/method/rowsvd.yaml", CONFIG),
        ("tests/test_rowsvd.py", TEST),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def test_the_page_on_adding_a_method_works_to_the_letter(tmp_path):
    for name in ("src", "conf", "tests", "pyproject.toml"):
        subprocess.run(["cp", "-r", PROJECT / name, tmp_path / name], check=True)
    (tmp_path / "src/lowrank_bench/methods/rowsvd.py").write_text(METHOD)
    (tmp_path / "conf/method/rowsvd.yaml").write_text(CONFIG)
    use(tmp_path, tmp_path / "src")
    # Every test that goes over all methods or all configurations; the others know nothing of it.
    files = ("every_method", "every_network_method", "other_device", "layerwise", "digest")
    files += ("keys", "config", "methods")
    words = ["-m", "pytest", "-p", "no:cacheprovider", "-o", "addopts=", "-k"]
    words += ["rowsvd or configurations or registry or each_member or depend_on_each_other"]
    report = run([*words, *(f"tests/test_{file}.py" for file in files)], tmp_path, tmp_path / "src")
    assert passed(report) >= 2 * 20 + 5


@pytest.mark.campaign
@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
def test_the_whole_of_the_tests_pass_with_the_method_of_the_page(tmp_path, inside):
    """What `make test` runs, in a copy of the project to which the method was added."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True)
    for name in filter(None, tracked.stdout.split("\0")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", PROJECT / name, tmp_path / name], check=True)
    subprocess.run(["git", "init", "-q", "."], cwd=tmp_path, check=True)
    if inside:
        (tmp_path / "src/lowrank_bench/methods/rowsvd.py").write_text(METHOD)
        (tmp_path / "conf/method/rowsvd.yaml").write_text(CONFIG)
    else:
        write_folder(tmp_path / "my_methods")
    words = ["-m", "pytest", "-p", "no:cacheprovider", "-n", str(os.cpu_count())]
    assert passed(run([*words, "tests"], tmp_path, tmp_path / "src")) > 3000
    if not inside:  # in a process of its own, as its method is known to the package there
        assert passed(run([*words, "my_methods"], tmp_path, tmp_path / "src")) == 2 * 31


def test_the_page_works_to_the_letter_outside_the_package(tmp_path):
    if (PROJECT / "src/lowrank_bench/methods/rowsvd.py").exists():
        pytest.skip("the page was followed inside this package, where its name is taken now")
    write_folder(tmp_path / "my_methods")
    (tmp_path / "conf").symlink_to(PROJECT / "conf")
    use(tmp_path, PROJECT / "src", "plugins=[my_methods]")
    program = "import sys; from lowrank_bench.cli import main; sys.exit(main())"
    listing = ["-c", program, "methods", "--methods-from", "my_methods"]
    assert "rowsvd: SVD with rows weighted" in run(listing, tmp_path, PROJECT / "src")
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "my_methods"]
    assert passed(run(words, tmp_path, PROJECT / "src")) == 2 * 31
