"""The types that a user's type checker sees."""

import subprocess
import sys
from pathlib import Path

import lowrank_bench

# The libraries below are skipped for speed: what the package says of itself is what counts here.
SETTINGS = """[mypy]
strict = true
follow_imports = silent
[mypy-torch.*,transformers.*,numpy.*,pandas.*,scipy.*]
follow_imports = skip
ignore_missing_imports = true
"""
RIGHT = """from typing import assert_type

import numpy as np
from torch import nn

from lowrank_bench import CompressionReport, compress, compress_network, low_rank
from lowrank_bench.linalg.factors import Approximation
from lowrank_bench.methods.lp import Lp


def use(model: nn.Module) -> None:
    assert_type(low_rank(np.eye(4), rank=2, method=Lp(p=1.5)), Approximation)
    assert_type(compress(model, "lp", 0.4, p=1.5)[1], CompressionReport)
    assert_type(compress(model, "svd", 0.4, "conv", budget="macs")[1], CompressionReport)
    assert_type(compress(model, "rtn", target="linear", saved_bytes=0.8)[1], CompressionReport)
    assert_type(compress_network(model, "svd", 0.4, target="conv")[1], CompressionReport)
"""
WRONG = """import numpy as np
from torch import nn

import lowrank_bench
from lowrank_bench import compress, compress_network, low_rank

low_rank(np.eye(4), rank="8")
compress(nn.Module(), "lp", "0.4")
compress_network(nn.Module(), "svd", 0.4, target="embedding")
lowrank_bench.low_rnak(np.eye(4), 2)
"""
CODES = ["arg-type", "call-overload", "arg-type", "attr-defined"]


def test_the_package_says_that_it_has_types():
    assert (Path(lowrank_bench.__file__).parent / "py.typed").is_file()


def test_a_type_checker_passes_right_scripts_and_finds_wrong_arguments(tmp_path):
    for name, text in (("mypy.ini", SETTINGS), ("right.py", RIGHT), ("wrong.py", WRONG)):
        (tmp_path / name).write_text(text)
    words = [sys.executable, "-m", "mypy", "--cache-dir", "cache", "--no-error-summary"]
    words += ["--no-pretty", "right.py", "wrong.py"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    places = [line.split(": ")[0] for line in errors]
    assert places == [f"wrong.py:{number}" for number in (7, 8, 9, 10)], done.stdout
    assert [line.rpartition("[")[2].rstrip("]") for line in errors] == CODES
    assert 'Argument "rank" to "low_rank" has incompatible type "str"' in errors[0]
