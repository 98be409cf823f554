"""The methods configured in conf/method, for the tests that each of them must pass."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from lowrank_bench.config.schema import MethodGrid
from lowrank_bench.methods import CodingMethod, make_method, method_class, method_names

CONFIGS = Path(__file__).parents[1] / "conf" / "method"


def configured(target: str) -> Iterator[Any]:
    """Every combination of parameters of the shipped configurations; codes are apart."""
    for file in sorted(CONFIGS.glob("*.yaml")):
        entry = MethodGrid(**yaml.safe_load(file.read_text()))
        for values in product(*entry.grid.values()):
            chosen = dict(zip(entry.grid, values, strict=True))
            method = make_method(entry.name, **entry.params, **chosen)
            if target in method.targets and not isinstance(method, CodingMethod):
                yield pytest.param(method, id=method.label())


def codes() -> Iterator[Any]:
    """Every method that codes, with its default parameters."""
    for name in method_names():
        if issubclass(method_class(name), CodingMethod):
            yield pytest.param(make_method(name), id=name)
