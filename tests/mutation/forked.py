"""Tests in a forked process, with one module read from another text.

A process imports torch and all other libraries once; each fork imports this project anew, which
takes a second. So a mutant costs its tests and little else.
"""

import contextlib
import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

PROJECT = Path(__file__).parents[2]
FIRST = 10  # tests that run before the others are collected
GIGABYTES = 10  # that a test may use
LIBRARIES = (
    *("torch", "numpy", "scipy.optimize", "scipy.stats", "scipy.special", "scipy.linalg"),
    *("pandas", "pyarrow.parquet", "sklearn.datasets", "sklearn.cluster", "sklearn.metrics"),
    *("hypothesis", "hypothesis.extra.numpy", "pydantic", "hydra", "omegaconf", "safetensors"),
    *("safetensors.torch", "safetensors.numpy", "transformers.modeling_utils", "evaluate"),
    *("huggingface_hub", "torch.fx", "torch._dynamo", "threadpoolctl", "_pytest.python_api"),
    *("transformers.models.bert.modeling_bert", "transformers.models.roberta.modeling_roberta"),
)


@dataclass(frozen=True)
class End:
    """How a fork ended: `code` of pytest, or why it did not get there, and its CPU seconds."""

    code: int | str
    seconds: float


class Loader(importlib.machinery.SourceFileLoader):
    """A loader of one module whose code comes from elsewhere."""

    def __init__(self, name: str, path: str, code: Callable[[str], CodeType]) -> None:
        super().__init__(name, path)
        self._code = code

    def get_code(self, fullname: str) -> CodeType:
        """Return the other code."""
        return self._code(self.path)


class Finder(importlib.abc.MetaPathFinder):
    """Finds modules of this project whose file `wanted` accepts."""

    def __init__(self, wanted: Callable[[str], bool], code: Callable[[str], CodeType]) -> None:
        self._wanted, self._code = wanted, code

    def find_spec(
        self, fullname: str, path: Any, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the specification of a wanted module."""
        if not fullname.startswith("lowrank_bench."):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is None or spec.origin is None or not self._wanted(spec.origin):
            return None
        loader = Loader(fullname, spec.origin, self._code)
        return importlib.util.spec_from_file_location(fullname, spec.origin, loader=loader)


def warm_up() -> None:
    """Import the libraries of the tests, and nothing of this project."""
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = "/dev/null/none"
    sys.path[:0] = [str(PROJECT / "src"), str(PROJECT / "tests")]
    os.chdir(PROJECT)
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    import torch
    from hypothesis import Phase, settings

    torch.set_num_threads(1)
    # A failure is enough: its smallest example would cost minutes.
    settings.register_profile(
        "mutants", phases=[Phase.explicit, Phase.generate], database=None, deadline=None
    )
    settings.load_profile("mutants")
    gc.freeze()  # else each fork walks through all objects of the libraries
    assert "lowrank_bench" not in sys.modules


def fork(work: Callable[[], int], log: Path, seconds: float, patience: float = 8) -> End:
    """Run work in a fork that may use some CPU seconds, and a multiple of them in all."""
    child = os.fork()
    if not child:
        _become(log, seconds)
        try:
            code = work()
        except BaseException:
            import traceback

            traceback.print_exc()
            code = 3
        sys.stdout.flush()
        os._exit(code)
    until = time.monotonic() + patience * seconds + 60
    while True:
        ended, status, used = os.wait4(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > until:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what a test has left behind
    spent = used.ru_utime + used.ru_stime
    if os.WIFSIGNALED(status):
        return End(signal.Signals(os.WTERMSIG(status)).name, spent)
    return End(os.WEXITSTATUS(status), spent)


def _become(log: Path, seconds: float) -> None:
    os.setsid()
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    limit = int(seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 2))
    resource.setrlimit(resource.RLIMIT_DATA, (GIGABYTES << 30, GIGABYTES << 30))


def run_tests(tests: list[str], *plugins: object) -> int:
    """Run tests of the project in this process up to the first failure; return pytest's code."""
    import pytest

    words = ["-x", "-q", "-p", "no:cacheprovider", "--tb=line", "--hypothesis-seed=0"]
    # The first tests notice most mutants, and need not wait until all files are imported.
    for part in filter(None, (tests[:FIRST], tests[FIRST:])):
        if code := int(pytest.main([*words, *part], plugins=list(plugins))):
            return code
    return 0
