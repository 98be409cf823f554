"""What the class of a method must declare."""

import ast
import inspect
import json
import sys

from lowrank_bench.compression.embedding import compress_embedding
from lowrank_bench.compression.matrix import low_rank
from lowrank_bench.compression.networks import compress_network
from lowrank_bench.methods import Method
from lowrank_bench.problem import FACTS
from lowrank_bench.store.digest import closure

TARGETS = {"embedding", "linear", "conv"}
# A parameter of one of these names could not be passed next to the name of its method.
TAKEN = {
    name
    for function in (low_rank, compress_embedding, compress_network)
    for name in inspect.signature(function).parameters
}


def check_names(method: Method) -> None:
    """Check that the class says what it is called and where it comes from."""
    for attribute in ("name", "title", "source"):
        text = getattr(method, attribute, None)
        assert isinstance(text, str), f"{attribute} is not a text"
        assert text, f"{attribute} is empty"
    assert method.name.isidentifier(), f"{method.name!r} is not a Python name"
    assert method.targets, "targets is empty"
    assert set(method.targets) <= TARGETS, f"targets are among {TARGETS}"
    assert set(method.needs) <= set(FACTS), f"needs are among {set(FACTS)}"
    assert set(method.quiet) <= set(type(method).model_fields), "quiet names an unknown parameter"


def check_parameters(method: Method) -> None:
    """Check that the parameters survive a copy and JSON, in which results keep them."""
    assert type(method)(**method.model_dump()) == method
    stored = json.loads(json.dumps(method.model_dump(mode="json"), allow_nan=False))
    assert type(method)(**stored) == method
    for name, field in type(method).model_fields.items():
        assert field.description, f"the parameter {name} has no description"
        assert name not in TAKEN, f"{name} is an argument of compress; rename the parameter"


def check_sources(method: Method) -> None:
    """Check that the modules behind the results exist, and that the method's is among them."""
    for target in method.targets:
        modules = closure(method.sources(target))
        assert type(method).__module__ in modules
    assert "torch" not in _imported_at_the_top(method), "import torch inside the functions"


def _imported_at_the_top(method: Method) -> set[str]:
    """Return the names of the packages that the method's file imports when it is loaded."""
    packages: set[str] = set()
    for node in ast.parse(inspect.getsource(sys.modules[type(method).__module__])).body:
        if isinstance(node, ast.Import):
            packages |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            packages.add((node.module or "").partition(".")[0])
    return packages


CHECKS = (check_names, check_parameters, check_sources)
