"""The methods configured in conf/method, for the tests that each of them must pass."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from lowrank_bench.config.schema import MethodGrid
from lowrank_bench.methods import make_method

CONFIGS = Path(__file__).parents[1] / "conf" / "method"


def configured(target: str) -> Iterator[Any]:
    """Every combination of parameters that the shipped configurations run on a target."""
    for file in sorted(CONFIGS.glob("*.yaml")):
        entry = MethodGrid(**yaml.safe_load(file.read_text()))
        for values in product(*entry.grid.values()):
            chosen = dict(zip(entry.grid, values, strict=True))
            method = make_method(entry.name, **entry.params, **chosen)
            if target in method.targets:
                yield pytest.param(method, id=method.label())
