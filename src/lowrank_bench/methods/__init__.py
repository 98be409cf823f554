"""The registry: every module of this folder but `base` is one method, found by its name."""

from difflib import get_close_matches
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from pydantic import ValidationError

from lowrank_bench.errors import LowRankError
from lowrank_bench.methods.base import MatrixMethod, Method, NetworkMethod

__all__ = [
    "MatrixMethod",
    "Method",
    "NetworkMethod",
    "make_method",
    "method_class",
    "method_names",
    "methods_for",
    "network_method",
]


def method_names() -> list[str]:
    """Return the names of all methods, sorted."""
    return sorted(found.name for found in iter_modules(__path__) if found.name != "base")


def methods_for(target: str) -> list[str]:
    """Return the names of the methods that can compress a target, sorted."""
    return [name for name in method_names() if target in method_class(name).targets]


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
    module = import_module(f"{__name__}.{name}")
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
    cls = method_class(name)
    try:
        return cls(**params)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"][:1])
        if first["type"] == "extra_forbidden":
            known = ", ".join(cls.model_fields) or "none"
            raise LowRankError(
                f"method {name!r} has no parameter {key!r}; known: {known}"
            ) from None
        fault = first["msg"].removeprefix("Value error, ")
        value = f"{key} = {first['input']!r} is not valid: " if key else ""
        raise LowRankError(f"method {name!r}: {value}{fault}") from None
