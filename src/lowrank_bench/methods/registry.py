"""Find methods by their names and check their parameters; nothing here imports torch."""

from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from pydantic import ValidationError

from lowrank_bench.errors import LowRankError
from lowrank_bench.methods.base import Method

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
