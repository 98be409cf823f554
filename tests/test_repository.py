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
    found = pins(next(part["pip"] for part in parts if isinstance(part, dict)))
    assert len(found) > 10
    assert found.items() <= LOCK.items()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_page_on_adding_a_method_works_to_the_letter(tmp_path):
    page = (PROJECT / "docs/add-a-method.md").read_text()
    python, config = (
        re.search(rf"```{kind}\n(.*?)```", page, re.S)[1] for kind in ("python", "yaml")
    )
    for name in ("src", "conf"):
        subprocess.run(["cp", "-r", PROJECT / name, tmp_path / name], check=True)
    (tmp_path / "src/lowrank_bench/methods/rowsvd.py").write_text(python)
    (tmp_path / "conf/method/rowsvd.yaml").write_text(config)
    code = (
        "import json, torch\n"
        "from pathlib import Path\n"
        "from lowrank_bench import low_rank\n"
        "from lowrank_bench.config import load_config\n"
        "from lowrank_bench.plan.grid import make_plan\n"
        "from lowrank_bench.methods import method_names\n"
        "A = torch.randn(60, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))\n"
        "gap = low_rank(A, 3, 'rowsvd', power=0).dense() - low_rank(A, 3, 'svd').dense()\n"
        "plan = make_plan(load_config(Path('conf'), ['method=[svd,rowsvd]']))\n"
        "labels = sorted({spec.label for job in plan.evaluate for spec in job.specs})\n"
        "print(json.dumps([method_names(), labels, float(gap.abs().max())]))"
    )
    env = os.environ | {"PYTHONPATH": str(tmp_path / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names, labels, gap = json.loads(done.stdout)
    assert "rowsvd" in names
    assert labels == ["rowsvd (power=-0.5)", "rowsvd (power=-1)", "svd"]
    assert gap < 1e-10
