"""Fixtures shared by several tests: the project's folder, and a configuration tree to edit."""

import os
import shutil
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest.register_assert_rewrite("lowrank_bench.testing")  # so that failures show their values
PROJECT = Path(__file__).parents[1]


@pytest.fixture
def conf(tmp_path):
    """Return a copy of conf/ that a test may edit."""
    return Path(shutil.copytree(PROJECT / "conf", tmp_path / "conf"))


def pytest_collection_modifyitems(items):
    """Put the tests that wait for a cluster first, so that the others compute meanwhile."""
    items.sort(key=lambda item: item.path.name != "test_slurm.py")


@pytest.fixture
def one_thread():
    """Compute on one thread, as many small problems do best."""
    from lowrank_bench.device import fixed_threads

    with fixed_threads(1):
        yield
