"""Where the sources can be mutated, and a seeded sample of mutants.

The mutations are Cosmic Ray's: another operator, another comparison, a number one larger or
smaller, `and` for `or`, a negated condition, an exception that is not caught, a loop that never
runs, a decorator gone. A *site* is a place in the text; a sample takes distinct sites and one
mutation of each, so that an operator with eleven replacements counts no more than a number.

What is no mutation of behaviour is left out by rule: annotations and aliases of types, `assert`
(read by type checkers), the arguments of exceptions, warnings and `print`, which are messages, and
the decorators that only save time or only forbid (`cache`, `abstractmethod`, `overload`).
"""

import ast
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.provider import OperatorProvider

SOURCES = Path(__file__).parents[2] / "src/lowrank_bench"
TARGETS = ("linalg", "alds", "prune", "layerwise", "score", "store", "network/allocate.py")
NOT_ASKED = {"VariableReplacer", "VariableInserter"}  # these need the names of variables
SAVING = {"cache", "lru_cache", "cached_property", "abstractmethod", "overload"}
Position = tuple[int, int]  # line from 1, column from 0


@dataclass(frozen=True)
class Mutant:
    """One change of one file; `occurrence` counts the places that an operator applies to."""

    path: str
    line: int
    column: int
    operator: str
    occurrence: int

    @property
    def name(self) -> str:
        """Where and what, in one line."""
        return f"{self.path}:{self.line}:{self.column} {self.operator}"

    def source(self) -> str | None:
        """Return the mutated text, or None when it is no Python or the same program."""
        text = (SOURCES / self.path).read_text()
        try:
            mutated = mutate_code(text, OperatorProvider()[self.operator](), self.occurrence)
        except AttributeError:  # Cosmic Ray cannot replace an exception with a dotted name
            return None
        try:
            same = mutated is None or ast.dump(ast.parse(mutated)) == ast.dump(ast.parse(text))
        except (SyntaxError, ValueError):
            return None
        return None if same else mutated


def files() -> list[Path]:
    """Return the files that are mutated."""
    places = [SOURCES / target for target in TARGETS]
    return sorted(
        file
        for place in places
        for file in ([place] if place.is_file() else place.rglob("*.py"))
        if file.name != "__init__.py"
    )


def sample(size: int, seed: int) -> list[Mutant]:
    """Return a seeded sample of valid mutants, at most one at a site."""
    sites: dict[tuple[str, Position], list[Mutant]] = {}
    for file in files():
        for mutant in _mutants(file):
            sites.setdefault((mutant.path, (mutant.line, mutant.column)), []).append(mutant)
    draw = random.Random(seed)
    chosen: list[Mutant] = []
    for site in draw.sample(sorted(sites), len(sites)):
        mutant = draw.choice(sites[site])
        if mutant.source() is not None:
            chosen.append(mutant)
        if len(chosen) == size:
            break
    return chosen


def function_at(text: str, line: int) -> int:
    """Return the line of the innermost `def` around a line; 0 outside of all."""
    inner = 0
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.lineno <= line <= (node.end_lineno or 0):
            inner = max(inner, node.lineno)
    return inner


def _mutants(file: Path) -> Iterator[Mutant]:
    text = file.read_text()
    spans, nodes = list(_left_out(ast.parse(text))), list(ast_nodes(get_ast(text)))
    provider, path = OperatorProvider(), file.relative_to(SOURCES).as_posix()
    for name in sorted(set(provider) - NOT_ASKED):
        operator, occurrence = provider[name](), 0
        for node in nodes:
            for start, _ in operator.mutation_positions(node):
                if not any(first <= start < last for first, last in spans):
                    yield Mutant(path, *start, name, occurrence)
                occurrence += 1


def _left_out(tree: ast.Module) -> Iterator[tuple[Position, Position]]:
    """Yield the spans of text that are no behaviour; see the module's docstring."""
    for node in ast.walk(tree):
        out: list[ast.AST | None] = []
        if isinstance(node, ast.arg | ast.AnnAssign):
            out = [node.annotation]
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            out = [d for d in node.decorator_list if _word(d) in SAVING]
            # Cosmic Ray places the removal of a decorator at the sign before it.
            yield from (((d.lineno, 0), (d.lineno + 1, 0)) for d in out if d)
        if isinstance(node, ast.FunctionDef):
            out.append(node.returns)
        if isinstance(node, ast.Assert):
            out = [node]
        if isinstance(node, ast.If) and _word(node.test) == "TYPE_CHECKING":
            out = [node]
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            out = [*node.exc.args]
        if isinstance(node, ast.Call) and _word(node.func) in {"print", "warn", "TypeVar", "cast"}:
            out = [*node.args]
        if isinstance(node, ast.Assign) and node in tree.body and _is_alias(node.value):
            out = [node]
        yield from (_span(part) for part in out if part is not None)


def _is_alias(value: ast.expr) -> bool:
    """Return whether a value of a module is a type, such as `int | None` or `dict[str, int]`."""
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.BitOr):
        return not isinstance(value.left, ast.Set | ast.Call)
    return isinstance(value, ast.Subscript)


def _word(node: ast.expr) -> str:
    node = node.func if isinstance(node, ast.Call) else node
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _span(node: ast.AST) -> tuple[Position, Position]:
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)
