"""Find methods by their names and check their parameters; nothing here imports torch."""

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from lowrank_bench.errors import LowRankError
from lowrank_bench.methods.base import Method, NetworkMethod

# Modules of the folder that are not methods.
SHARED = frozenset({"base", "fields", "registry"})


def method_names() -> list[str]:
    """Return the names of all methods, sorted."""
    modules = iter_modules([str(Path(__file__).parent)])
    return sorted(module.name for module in modules if module.name not in SHARED)


def methods_for(target: str) -> list[str]:
    """Return the names of the methods that can compress a target, sorted."""
    return [name for name in method_names() if target in method_class(name).targets]


def method_class(name: str) -> type[Method]:
    """Return the class of the method `name`.

    Raises
    ------
    LowRankError
        When no file `methods/<name>.py` defines a `Method` of that name.
    """
    if name not in method_names():
        near = get_close_matches(name, method_names(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(method_names())}"
        raise LowRankError(f"unknown method {name!r}; {hint}")
    module = import_module(f"lowrank_bench.methods.{name}")
    for value in vars(module).values():
        if (
            isinstance(value, type)
            and issubclass(value, Method)
            and vars(value).get("name") == name
        ):
            return value
    raise LowRankError(f"{module.__file__} defines no Method subclass with name = {name!r}")


def make_method(name: str, /, **params: Any) -> Method:
    """Return the method `name` with its parameters validated.

    Raises
    ------
    LowRankError
        When the method is unknown, a parameter is unknown, or a value is out of range.
    """
    return method_class(name)(**params)


def as_method(method: str | Method, params: Mapping[str, Any]) -> Method:
    """Return a method that is named, with parameters beside it, or is an object already.

    Raises
    ------
    LowRankError
        When the name or a parameter is wrong, or an object comes with parameters.
    """
    if isinstance(method, str):
        return make_method(method, **params)
    if not isinstance(method, Method):
        kind = f"the class {method.__name__}" if isinstance(method, type) else f"{method!r}"
        raise LowRankError(
            f"expected the name of a method or a method such as Lp(p=1.5), not {kind}"
        )
    if params:
        name, value = next(iter(params.items()))
        raise LowRankError(
            f"{name}={value!r} does not go with a {type(method).__name__} object; set it there: "
            f"{type(method).__name__}({name}={value!r})"
        )
    return method


def network_method(method: Method, target: str) -> NetworkMethod:
    """Return a method after a check that it compresses whole networks of this target.

    Raises
    ------
    LowRankError
        When it does not.
    """
    if not isinstance(method, NetworkMethod) or target not in method.targets:
        raise LowRankError(
            f"{method.name} does not compress the target {target!r}; methods that do: "
            f"{', '.join(methods_for(target))}"
        )
    return method
