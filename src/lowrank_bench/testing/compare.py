"""Compare what a check computes with what it expects."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from lowrank_bench.errors import LowRankError


def is_near(value: float, expected: float, relative: float = 1e-6) -> bool:
    """Return whether a value is within a relative tolerance, or 1e-12, of the expected one."""
    return abs(value - expected) <= max(relative * abs(expected), 1e-12)


def are_near(
    values: Mapping[str, float], expected: Mapping[str, float], relative: float = 1e-6
) -> bool:
    """Return whether two mappings have the same keys and near values."""
    return values.keys() == expected.keys() and all(
        is_near(value, expected[name], relative) for name, value in values.items()
    )


@contextmanager
def refused(pattern: str) -> Iterator[None]:
    """Expect the block to end in a `LowRankError` of one line that matches a regular expression.

    Raises
    ------
    AssertionError
        When the block does not raise it, or the message does not match.
    """
    try:
        yield
    except LowRankError as error:
        message = str(error)
    else:
        raise AssertionError(f"expected a LowRankError that matches {pattern!r}")
    assert re.search(pattern, message), f"{message!r} does not match {pattern!r}"
    assert "\n" not in message, f"more than one line: {message!r}"
