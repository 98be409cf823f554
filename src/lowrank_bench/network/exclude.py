"""Layers that users leave out of the compression of a whole network."""

from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn

from lowrank_bench.errors import LowRankError


def excluded(model: nn.Module, patterns: Sequence[str]) -> frozenset[str]:
    """Return the dotted names of all modules that some pattern covers.

    Parameters
    ----------
    patterns
        Each is the name of a module, or one with `*` and `?` as in file names (`*` may stand for
        several parts); it covers the modules inside as well.

    Raises
    ------
    LowRankError
        When a pattern covers no module, or `patterns` is no sequence of names.
    """
    if isinstance(patterns, str) or not all(isinstance(pattern, str) for pattern in patterns):
        raise LowRankError(f"exclude is a list of names of layers, not {patterns!r}")
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    covered: set[str] = set()
    for pattern in patterns:
        heads = [name for name in names if fnmatchcase(name, pattern)]
        if not heads:
            near = get_close_matches(pattern, names, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else "; see model.named_modules()"
            raise LowRankError(f"exclude names {pattern!r}, which is no module{hint}")
        starts = tuple(f"{head}." for head in heads)
        covered |= {*heads, *(name for name in names if name.startswith(starts))}
    return frozenset(covered)
