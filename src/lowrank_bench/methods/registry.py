"""Find methods by their names and check their parameters; nothing here imports torch."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from lowrank_bench.errors import LowRankError
from lowrank_bench.methods.base import Method, NetworkMethod
from lowrank_bench.methods.plugins import Plugin, imported_from, installed_plugins, plugins_in

# Modules of this folder that are not methods.
SHARED = frozenset({"base", "fields", "plugins", "quantized", "registry"})
QUANTIZE = "quantize"  # the setting of every method with factors: the bits of these
# The methods of the folders registered so far, by name, and these folders.
_REGISTERED: dict[str, Plugin] = {}
_FOLDERS: set[Path] = set()


def method_names() -> list[str]:
    """Return the names of all methods, sorted: the package's, and those of plug-ins."""
    return sorted([*_built_in(), *_plugins()])


def methods_for(target: str) -> list[str]:
    """Return the names of the methods that can compress a target, sorted."""
    return [name for name in method_names() if target in method_class(name).targets]


def register_folder(folder: str | Path) -> None:
    """Add the methods of a folder outside the package: each of its `*.py` files is one.

    Does nothing when the folder is registered already. Every process that makes such a method by
    its name must call this first, or `register_folders`.

    Parameters
    ----------
    folder
        The folder; relative to the working directory.

    Raises
    ------
    LowRankError
        When the folder does not exist or holds no method, a file does not define one complete
        method of its own name or cannot be imported, or a name is taken.
    """
    place = Path(folder).expanduser().resolve()
    if place in _FOLDERS:
        return
    plugins = plugins_in(place, _FOLDERS)
    taken = _plugins()
    for plugin in plugins:
        _check_free(plugin, taken)
    with imported_from(place):
        for plugin in plugins:
            _check_alone(plugin.load(), plugin.name)
    _FOLDERS.add(place)
    _REGISTERED.update({plugin.name: plugin for plugin in plugins})


def register_folders(folders: Iterable[str | Path]) -> None:
    """Call `register_folder` for each of these folders, as the key `plugins` lists them."""
    for folder in folders:
        register_folder(folder)


def origin_of(name: str) -> str | None:
    """Return the file or entry point of a plug-in's method; None for the package's methods."""
    plugin = _plugins().get(name)
    return plugin.origin if plugin else None


def method_class(name: str) -> type[Method]:
    """Return the class of the method `name`.

    Raises
    ------
    LowRankError
        When there is no such method, or its file defines no `Method` of that name.
    """
    if name in _built_in():
        return _class_in(import_module(f"lowrank_bench.methods.{name}"), name)
    plugin = _plugins().get(name)
    if plugin is None:
        near = get_close_matches(name, method_names(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(method_names())}"
        raise LowRankError(f"unknown method {name!r}; {hint}")
    return _class_in(plugin.load(), name)


@cache
def _built_in() -> frozenset[str]:
    modules = iter_modules([str(Path(__file__).parent)])
    return frozenset(module.name for module in modules) - SHARED


def _plugins() -> dict[str, Plugin]:
    """Return the plug-ins of registered folders and of installed distributions, by name."""
    plugins = dict(_REGISTERED)
    for plugin in installed_plugins():
        _check_free(plugin, plugins)
        plugins[plugin.name] = plugin
    return plugins


def _check_free(plugin: Plugin, taken: Mapping[str, Plugin]) -> None:
    """Check that the name of a plug-in is not that of another method."""
    if plugin.name in _built_in():
        raise LowRankError(
            f"{plugin.origin}: the package has a method {plugin.name!r} already; choose another "
            "name"
        )
    if plugin.name in taken:
        raise LowRankError(
            f"{plugin.origin}: {taken[plugin.name].origin} defines a method {plugin.name!r} "
            "already; choose another name"
        )


def _class_in(module: ModuleType, name: str) -> type[Method]:
    """Return the method of that name that a module defines."""
    for value in vars(module).values():
        if (
            isinstance(value, type)
            and issubclass(value, Method)
            and vars(value).get("name") == name
        ):
            return value
    raise LowRankError(f"{module.__file__} defines no Method subclass with name = {name!r}")


def _check_alone(module: ModuleType, name: str) -> None:
    """Check that a file of a plug-in folder defines one method, which lacks nothing."""
    cls = _class_in(module, name)
    absent = [attribute for attribute in ("title", "source") if not hasattr(cls, attribute)]
    absent += sorted(cls.__abstractmethods__)
    if absent:
        raise LowRankError(f"{module.__file__}: {cls.__name__} does not define {absent[0]}")
    for value in vars(module).values():
        if (
            isinstance(value, type)
            and issubclass(value, Method)
            and value.__module__ == module.__name__
            and vars(value).get("name", name) != name
        ):
            raise LowRankError(
                f"{module.__file__} defines a second method, {vars(value)['name']!r}; give each "
                "method a file of its own name"
            )


def make_method(name: str, /, **params: Any) -> Method:
    """Return the method `name` with its parameters validated.

    With `quantize` (bits, `auto`, or a mapping of bits, group and scale) it is the method whose
    factors are stored in that precision; None is as if it were left out.

    Raises
    ------
    LowRankError
        When the method is unknown, a parameter is unknown, or a value is out of range.
    """
    return _made(method_class(name), params)


def _made(cls: type[Method], params: Mapping[str, Any]) -> Method:
    """Return a method, or what `quantize` makes of it."""
    plain = {key: value for key, value in params.items() if key != QUANTIZE}
    if params.get(QUANTIZE) is None:
        return cls(**plain)
    # By its name, as methods are: that module is no part of what decides other methods' results.
    module = import_module("lowrank_bench.methods.quantized")
    method: Method = module.quantized(cls)(**plain, quantize=params[QUANTIZE])
    return method


def as_method(method: str | Method, params: Mapping[str, Any]) -> Method:
    """Return a method: made from a name and parameters, or the object that already is one.

    An object takes one parameter, `quantize`.

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
    plain = {key: value for key, value in params.items() if key != QUANTIZE}
    if plain:
        name, value = next(iter(plain.items()))
        cls = type(method)
        if name not in cls.model_fields:
            known = ", ".join(cls.model_fields) or "none"
            raise LowRankError(
                f"{name!r} is neither an option nor a parameter of {cls.__name__}; its parameters: "
                f"{known}"
            )
        raise LowRankError(
            f"{name}={value!r} cannot be passed along with a method object; write "
            f"{cls.__name__}({name}={value!r})"
        )
    if params.get(QUANTIZE) is not None:
        values = {name: getattr(method, name) for name in type(method).model_fields}
        return _made(type(method), {**values, **params})
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
