"""Digests that name artifacts: canonical JSON of what they depend on, and of the code behind it."""

import ast
import hashlib
import json
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from lowrank_bench.errors import LowRankError

PACKAGE = "lowrank_bench"
BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")  # where nodes hold statements
# Modules that move messages and files or look methods up, and cannot change a number.
NEUTRAL = {
    f"{PACKAGE}.{name}"
    for name in (
        "errors",
        "store.store",
        "store.digest",
        "store.files",
        "plan.cells",
        "methods",
        "methods.registry",
    )
}


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

    Imports inside functions count; imports for type checkers alone (`if TYPE_CHECKING`) do not,
    because they never run. Comments, docstrings and formatting do not count either, so only an
    edit that can change a result changes the digest. Nothing is imported: sources are read as text.

    Raises
    ------
    LowRankError
        When a module does not exist.
    """
    return digest([[name, _read(name)[1]] for name in sorted(closure(modules))])


def closure(modules: Iterable[str]) -> set[str]:
    """Return the modules of this package that `modules` import, directly or not, and themselves.

    Raises
    ------
    LowRankError
        When a module does not exist.
    """
    reached: set[str] = set()
    todo = list(modules)
    while todo:
        name = todo.pop()
        if name not in reached and name not in NEUTRAL:
            reached.add(name)
            todo.extend(_read(name)[0])
    return reached


def check_function(module: str, function: str) -> None:
    """Raise a `LowRankError` unless a module exists and defines a function; import nothing."""
    tree = ast.parse(_existing(module))
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    if function not in names:
        raise LowRankError(f"module {module} defines no function {function}")


def _existing(name: str) -> str:
    """Return the text of a module that must exist."""
    source = _source(name)
    if source is None:
        raise LowRankError(f"no module {name} in {PACKAGE}; correct the name where it is declared")
    return source


@cache
def _source(name: str) -> str | None:
    """Return a module's text, or None when there is no such module.

    The file is looked up by its path: asking the import system would import parent packages.
    """
    first, *rest = name.split(".")
    for folder in import_module(first).__path__:
        place = Path(folder, *rest)
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if rest and file.is_file():
                return file.read_text()
    return None


@cache
def _read(name: str) -> tuple[frozenset[str], str]:
    """Return the modules of this package that a module imports, and the digest of its code."""
    tree = ast.parse(_existing(name))
    imported: set[str] = set()
    todo: list[ast.AST] = [tree]
    while todo:  # statements alone: no import and no docstring stands inside an expression
        node = todo.pop()
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names if _is_ours(alias.name))
        elif isinstance(node, ast.ImportFrom):
            imported.update(_imported_from(node, name))
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_docstring(body[0]):
            node.body = body[1:] or [ast.Pass()]
        if isinstance(node, ast.If) and _is_type_checking(node.test):
            node.body = [ast.Pass()]
        todo.extend(inner for block in BLOCKS for inner in getattr(node, block, ()))
    return frozenset(imported), digest(ast.dump(tree))


def _imported_from(node: ast.ImportFrom, importer: str) -> set[str]:
    """Return the modules of this package that a `from … import …` reads."""
    if node.level:
        raise LowRankError(f"{importer} has a relative import; write the package's full name")
    if not node.module or not _is_ours(node.module):
        return set()
    names = {f"{node.module}.{alias.name}" for alias in node.names}
    modules = {name for name in names if _source(name) is not None}
    # What is no module of its own is a name inside the module that it is imported from.
    return modules | ({node.module} if modules != names else set())


def _is_ours(name: str) -> bool:
    return name.startswith(f"{PACKAGE}.")


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")
    return name == "TYPE_CHECKING"


def _is_docstring(node: ast.AST) -> bool:
    value = getattr(node, "value", None)
    return isinstance(node, ast.Expr) and isinstance(getattr(value, "value", None), str)
