"""Bounded values: every number of a configuration has a range, every text a length and a form.

What passes here can be planned in bounded time and memory, and its names can become names of files.
"""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

LONGEST_NAME = 100  # bytes: several names make up the name of a file, which may have 255
LARGEST_SEED = 2**32 - 1  # what NumPy takes
MOST_LABELS = 100_000
MOST_ENTRIES = 200  # of one group, such as model
ROWS = 10**9


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("it should be a number; true and false are none")
    return value


def _matching(pattern: str, text: str, longest: int, rule: str) -> str:
    """Return a text that has the form of a pattern, no `..` in it, and not too many bytes."""
    size = len(text.encode(errors="replace"))
    if size > longest:
        raise ValueError(f"it has {size:,} bytes; use at most {longest}")
    if not re.fullmatch(pattern, text) or ".." in text:
        raise ValueError(rule)
    return text


def _named(text: str) -> str:
    rule = "a name has letters, digits, _ and -, and does not begin with -; choose another one"
    return _matching(r"\w[\w-]*", text, LONGEST_NAME, rule)


def _split(text: str) -> str:
    rule = (
        "a split is named by letters, digits, _ - and single dots, and begins with a letter, a "
        "digit or _; correct it"
    )
    return _matching(r"\w[\w.-]*", text, LONGEST_NAME, rule)


def _split_or_part(text: str) -> str:
    """Check the name of a split, or of a part of its shuffle: `train`, `train[-5000:]`."""
    name, bracket, rest = text.partition("[")
    _split(name)
    if not bracket:
        return text
    part = re.fullmatch(r"(-?\d{1,10})?:(-?\d{1,10})?\]", rest)
    if part is None or not (part[1] or part[2]):
        raise ValueError(
            f"the part of a split is written as two row numbers, one of which may be missing; "
            f"write {name}[-1000:] or {name}[:2000], or {name} for all rows"
        )
    start, stop = int(part[1] or 0), int(part[2]) if part[2] else None
    if stop == 0 or (stop is not None and (start < 0) == (stop < 0) and start >= stop):
        raise ValueError(f"the part holds no rows; write {name}[-1000:] or {name}[:2000]")
    return text


def _repo(text: str) -> str:
    rule = "a repository of a hub is written as owner/name; correct it"
    return _matching(r"\w[\w.-]*/\w[\w.-]*", text, 2 * LONGEST_NAME, rule)


def _inner_path(text: str) -> str:
    rule = "it should be a name inside the repository, such as main or sub/file.th; correct it"
    return _matching(r"\w[\w.+-]*(/\w[\w.+-]*)*", text, 2 * LONGEST_NAME, rule)


def _printable(text: str) -> str:
    if any(not sign.isprintable() and sign not in "\n\t" for sign in text):
        raise ValueError("it holds a control sign; take it out")
    return text


def _one_line(text: str) -> str:
    if not text.strip() or "\n" in text or "\t" in text:
        raise ValueError("it should be one line of text, and not blank; write one")
    return _printable(text)


def _folder(text: str) -> str:
    """Check that a path is, or may become, a folder."""
    _one_line(text)
    if text.startswith("-"):
        raise ValueError(f"a path that begins with - reads as an option; write ./{text}")
    place = Path(text).expanduser()
    try:
        blocked = [here for here in (place, *place.parents) if here.exists() and not here.is_dir()]
    except OSError as error:  # no right to look, or a part of it too long
        raise ValueError(f"it cannot be used ({error.strerror}); name another folder") from None
    if blocked:
        raise ValueError(f"{blocked[0]} is not a folder; name another one")
    return text


def _distinct(values: list[Any]) -> list[Any]:
    seen: list[Any] | set[Any] = set()
    try:
        seen = set(values)
    except TypeError:  # some cannot be hashed
        seen = []
    if len(seen) == len(values):
        return values
    for place, value in enumerate(values):
        if value in values[:place]:
            raise ValueError(f"it lists {value!r} twice; list each value once")
    return values


Whole = Annotated[int, BeforeValidator(_number)]
Real = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Distinct = AfterValidator(_distinct)

Seed = Annotated[Whole, Field(ge=0, le=LARGEST_SEED)]
EpochCount = Annotated[Whole, Field(ge=1, le=10_000)]
BatchSize = Annotated[Whole, Field(ge=1, le=65_536)]
RowCount = Annotated[Whole, Field(ge=1, le=ROWS)]
Tokens = Annotated[Whole, Field(ge=1, le=2**20)]
Repeats = Annotated[Whole, Field(ge=1, le=10_000)]
Threads = Annotated[Whole, Field(ge=1, le=4096)]
Pixels = Annotated[Whole, Field(ge=4, le=4096)]
Share = Annotated[Real, Field(ge=0, lt=1)]
Strength = Annotated[Real, Field(ge=0, le=1000)]
# A training that diverges is a row with its reason: only what float32 cannot hold is refused.
LearningRate = Annotated[Real, Field(gt=0, le=1e30)]
Norm = Annotated[Real, Field(gt=0, le=1e30)]
Factor = Annotated[Real, Field(gt=0, le=1)]
Mean = Annotated[Real, Field(ge=-1e6, le=1e6)]
Deviation = Annotated[Real, Field(gt=0, le=1e6)]
LayerSize = Annotated[Whole, Field(ge=1, le=65_536)]

Name = Annotated[str, AfterValidator(_named)]
SplitName = Annotated[str, AfterValidator(_split)]
SplitPart = Annotated[str, AfterValidator(_split_or_part)]
Repository = Annotated[str, AfterValidator(_repo)]
InnerPath = Annotated[str, AfterValidator(_inner_path)]
Title = Annotated[str, Field(max_length=200), AfterValidator(_one_line)]
Prose = Annotated[str, Field(max_length=5000), AfterValidator(_printable)]
Folder = Annotated[str, Field(max_length=1000), AfterValidator(_folder)]
