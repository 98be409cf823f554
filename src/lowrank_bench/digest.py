"""Digests that name artifacts: canonical JSON of what they depend on, and of the code behind it."""

import ast
import hashlib
import json
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

PACKAGE = "lowrank_bench"
BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")  # where nodes hold statements
# Modules that carry messages and files about but cannot change a number.
NEUTRAL = {f"{PACKAGE}.{name}" for name in ("errors", "progress", "store", "digest", "cells")}


def canonical(value: Any) -> str:
    """Return `value` as JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any, length: int = 16) -> str:
    """Return the first `length` hex digits of the SHA-256 of `canonical(value)`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:length]


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@cache
def code_digest(*modules: str) -> str:
    """Digest the sources of `modules` and of every module of this package that they import.

    Comments, docstrings and formatting do not count, so only an edit that can change a result
    changes the digest. Nothing is imported: the sources are read as text.
    """
    sources = sorted(_closure(modules))
    return digest([[name, _read(name)[1]] for name in sources])


def _closure(modules: Iterable[str]) -> set[str]:
    found: set[str] = set()
    todo = list(modules)
    while todo:
        name = todo.pop()
        if name not in found and name not in NEUTRAL:
            found.add(name)
            todo.extend(_read(name)[0])
    return found


@cache
def _source(name: str) -> str | None:
    """Return a module's text, found by its path: looking it up by import would import parents."""
    first, *rest = name.split(".")
    for folder in import_module(first).__path__:
        file = Path(folder, *rest).with_suffix(".py")
        if rest and file.is_file():
            return file.read_text()
    return None  # a package, whose __init__ only gathers names, or no module at all


@cache
def _read(name: str) -> tuple[frozenset[str], str]:
    """Return the modules of this package that a module imports, and the digest of its code."""
    tree = ast.parse(_source(name) or "")
    names: set[str] = set()
    todo: list[ast.AST] = [tree]
    while todo:  # statements alone: no import and no docstring stands inside an expression
        node = todo.pop()
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.update([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_docstring(body[0]):
            node.body = body[1:] or [ast.Pass()]
        todo.extend(inner for block in BLOCKS for inner in getattr(node, block, ()))
    own = (found for found in names if found.startswith(f"{PACKAGE}."))
    return frozenset(found for found in own if _source(found) is not None), digest(ast.dump(tree))


def _is_docstring(node: ast.AST) -> bool:
    value = getattr(node, "value", None)
    return isinstance(node, ast.Expr) and isinstance(getattr(value, "value", None), str)
