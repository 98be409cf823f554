"""Digests that name artifacts: canonical JSON of what they depend on, and of the code behind it."""

import ast
import hashlib
import json
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from importlib.util import resolve_name
from pathlib import Path
from typing import Any

from lowrank_bench.errors import LowRankError

PACKAGE = "lowrank_bench"
_FOLLOWED = {PACKAGE}  # packages whose imports count: this one and those of plug-ins
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
        "methods.plugins",
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


def follow_package(name: str) -> None:
    """Make digests follow the imports of a plug-in's top-level package or module too."""
    if name not in _FOLLOWED:
        _FOLLOWED.add(name)
        for function in (code_digest, _source, _read):  # which passed its modules over so far
            function.cache_clear()


@cache
def code_digest(*modules: str) -> str:
    """Digest the sources of `modules` and of every module that they import, here or in plug-ins.

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
    """Return the modules of followed packages that `modules` import at any depth, and themselves.

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
        raise LowRankError(f"there is no module {name}; correct the name where it is declared")
    return source


@cache
def _source(name: str) -> str | None:
    """Return a module's text, or None when there is no such module."""
    file = _file(name)
    return file.read_text() if file else None


def _file(name: str) -> Path | None:
    """Return the file of a module, looked up by its path.

    The import system would import parent packages. The file of this package itself does not
    count: it loads everything that it offers by name.
    """
    first, *rest = name.split(".")
    home = import_module(first)
    if not rest:
        file = getattr(home, "__file__", None)
        return Path(file) if file and name != PACKAGE else None
    for folder in getattr(home, "__path__", ()):
        place = Path(folder, *rest)
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if path.is_file():
                return path
    return None


@cache
def _read(name: str) -> tuple[frozenset[str], str]:
    """Return the followed modules that a module imports, and the digest of its code."""
    tree = ast.parse(_existing(name))
    imported: set[str] = set()
    todo: list[ast.AST] = [tree]
    while todo:  # statements alone: no import and no docstring stands inside an expression
        node = todo.pop()
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names if _is_followed(alias.name))
        elif isinstance(node, ast.ImportFrom):
            imported.update(_imported_from(node, name))
        _drop_what_does_not_run(node)
        todo.extend(inner for block in BLOCKS for inner in getattr(node, block, ()))
    return frozenset(imported - {PACKAGE}), digest(ast.dump(tree))


def _drop_what_does_not_run(node: ast.AST) -> None:
    """Remove a docstring and what only type checkers read from a node, in place."""
    body = getattr(node, "body", None)
    if isinstance(body, list) and body and _is_docstring(body[0]):
        del body[0]
        if not body:
            body.append(ast.Pass())
    if isinstance(node, ast.If) and _is_type_checking(node.test):
        node.body = [ast.Pass()]


def _imported_from(node: ast.ImportFrom, importer: str) -> set[str]:
    """Return the followed modules that a `from … import …` reads."""
    source = _absolute(node, importer)
    if not _is_followed(source):
        return set()
    names = {f"{source}.{alias.name}" for alias in node.names}
    modules = {name for name in names if _source(name) is not None}
    if source == PACKAGE and modules != names:
        name = min(names - modules).removeprefix(f"{PACKAGE}.")
        raise LowRankError(
            f"{importer} imports {name} from {PACKAGE}; import it from the module that defines it, "
            "which results then depend on"
        )
    # Any other name is defined in the module that it is imported from.
    return modules | ({source} if modules != names else set())


def _absolute(node: ast.ImportFrom, importer: str) -> str:
    """Return the full name of the module that a statement imports from."""
    if not node.level:
        return node.module or ""
    if importer.partition(".")[0] == PACKAGE:
        raise LowRankError(f"{importer} has a relative import; write the package's full name")
    file = _file(importer)
    is_package = file is not None and file.name == "__init__.py"
    package = importer if is_package else importer.rpartition(".")[0]
    return resolve_name("." * node.level + (node.module or ""), package)


def _is_followed(name: str) -> bool:
    return name.partition(".")[0] in _FOLLOWED


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")
    return name == "TYPE_CHECKING"


def _is_docstring(node: ast.AST) -> bool:
    value = getattr(node, "value", None)
    return isinstance(node, ast.Expr) and isinstance(getattr(value, "value", None), str)
