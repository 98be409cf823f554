"""Names of splits and of their parts, and how a split differs from the official one."""

from collections.abc import Mapping
from typing import Any


def rows_of(split: str, limit: int) -> str:
    """Return the name of the first `limit` rows of a split's fixed shuffle: `train[:2000]`.

    A negative `limit` leaves out that many rows at the end: `train[:-5000]`.
    """
    return f"{split}[:{limit}]"


def held_out_of(split: str, rows: int) -> str:
    """Return the name of the last `rows` rows of a split's fixed shuffle: `train[-5000:]`."""
    return f"{split}[-{rows}:]"


def split_and_range(name: str) -> tuple[str, slice | None]:
    """Return the split in a name, and the part of its shuffle; None for the whole split."""
    split, bracket, rest = name.partition("[")
    if not bracket:
        return split, None
    start, stop = (int(end) if end else None for end in rest.removesuffix("]").split(":"))
    return split, slice(start, stop)


def unofficial(facts: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Return how a split differs from the official one; empty when no difference is known.

    Parameters
    ----------
    facts
        `rows`, `sha256` and, for images, `encoding` of the split.
    expected
        The same for the official split; None or absent where unknown.
    """
    if expected.get("rows") not in (None, facts["rows"]):
        return f"{facts['rows']:,} rows, official {expected['rows']:,}"
    if expected.get("encoding") not in (None, facts.get("encoding")):
        encoding = facts.get("encoding") or "unknown"
        return f"{encoding.upper()} copy, official {expected['encoding'].upper()}"
    if expected.get("sha256") not in (None, facts["sha256"]):
        return f"SHA-256 {facts['sha256'][:12]}…, official {expected['sha256'][:12]}…"
    return ""
