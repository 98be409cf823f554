"""What the files and overrides of a configuration may be before Hydra reads them: bounded, plain.

Hydra and its YAML parser expand whatever they are given, so a file of one kilobyte may become
gigabytes. The checks here cost milliseconds.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from lowrank_bench.errors import LowRankError

DEFAULT = "quickstart"  # the experiment of config.yaml
LARGEST_FILE = 2**18  # bytes, parsed in a few seconds
MOST_NODES = 100_000  # keys and values of one file, aliases written out
MOST_REFERENCES = 16  # `${…}` in one value, or `${…}` that may contain each other
MOST_OVERRIDES, LONGEST_OVERRIDE = 1000, 10_000
HYDRA = "is Hydra's own setting, which has no effect here; take it out"


def check_overrides(overrides: Sequence[str]) -> None:
    """Refuse overrides that are too many, too long, not in Hydra's syntax, or on Hydra itself.

    Raises
    ------
    LowRankError
        With the first of them.
    """
    if len(overrides) > MOST_OVERRIDES:
        raise LowRankError(
            f"{len(overrides):,} overrides are more than {MOST_OVERRIDES:,}; write an experiment's "
            "file instead"
        )
    parser = OverridesParser.create()
    for text in overrides:
        key, separator, _ = text.partition("=")
        if len(text) > LONGEST_OVERRIDE:
            raise LowRankError(
                f"the override of {brief(key)} has {len(text):,} signs, at most "
                f"{LONGEST_OVERRIDE:,} are read; write the value into the experiment's file"
            )
        if not separator and not text.startswith("~"):
            raise LowRankError(f"override {brief(text)} has no '='; write key=value")
        if re.match(r"[+~]*hydra\b", text):
            raise LowRankError(f"override {brief(text)}: {key.lstrip('+~')} {HYDRA}")
        try:
            parser.parse_override(text)
        except Exception as error:  # whatever its parser raises
            reason = " ".join(str(error).split("See https")[0].split())
            raise LowRankError(
                f"override {brief(text)} cannot be read: {reason[:200]}; put a value with special "
                f"signs between quotes: {brief(key, 60)[1:-1]}='...'"
            ) from None


def check_file(file: Path) -> None:
    """Refuse a file that is too large, is no text, or would grow when its aliases are written out.

    What is not YAML is left to Hydra, which says in which line.

    Raises
    ------
    LowRankError
        With the name of the file.
    """
    size = file.stat().st_size
    if size > LARGEST_FILE:
        raise LowRankError(
            f"{short_name(file)} has {size:,} bytes, at most {LARGEST_FILE:,} are read; shorten it"
        )
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise LowRankError(f"{short_name(file)} is not UTF-8 text; save it as UTF-8") from None
    if "hydra" in text and _sets_hydra(file):
        raise LowRankError(f"{short_name(file)}: hydra {HYDRA}")
    if not re.search(r"[&*]\w", text):
        return
    try:
        nodes = _expanded(yaml.compose(text, Loader=yaml.SafeLoader), {}, ())
    except yaml.YAMLError:
        return
    except RecursionError:
        raise too_deep(short_name(file)) from None
    if nodes > MOST_NODES:
        raise LowRankError(
            f"{short_name(file)} grows to more than {MOST_NODES:,} values when its aliases (*name) "
            "are written out; take them out"
        )


def _sets_hydra(file: Path) -> bool:
    """Return whether a file has a section `hydra`, or chooses one of Hydra's own groups."""
    content = read_keys(file)
    chosen = content.get("defaults")
    items = chosen if isinstance(chosen, list) else []
    names = [name for item in items for name in (item if isinstance(item, dict) else [item])]
    return any(re.match(r"(override\s+)?/?hydra\b", str(name)) for name in (*content, *names))


def _expanded(node: Any, known: dict[int, float], inside: tuple[int, ...]) -> float:
    """Return how many nodes a node stands for; without an end where it contains itself."""
    if id(node) in inside:
        return float("inf")
    if id(node) not in known:
        inside = (*inside, id(node))
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        flat = [part for item in parts for part in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = 1 + sum(_expanded(part, known, inside) for part in flat)
    return known[id(node)]


def check_references(values: Any) -> None:
    """Refuse more references `${…}` than can be resolved in bounded memory.

    Each may contain the others, so that k of them double a text k times. Environment variables
    contain none and do not count.
    """
    count = sum(text.count("${") - text.count("${oc.env:") for text in _texts(values))
    if count > MOST_REFERENCES:
        raise LowRankError(
            f"the configuration has {count} references ${{...}}, at most {MOST_REFERENCES} are "
            "resolved; write the values out"
        )


def _texts(values: Any) -> Iterable[str]:
    if isinstance(values, Mapping):
        values = [*values, *values.values()]
    if isinstance(values, list):
        for value in values:
            yield from _texts(value)
    elif isinstance(values, str):
        yield values


def experiment_file(folder: Path, overrides: Sequence[str]) -> Path:
    """Return the file of the chosen experiment, the last `experiment=NAME` or the default."""
    asked = [item.partition("=")[2] for item in overrides if item.startswith("experiment=")]
    return folder / "experiment" / f"{(asked or [DEFAULT])[-1]}.yaml"


def read_keys(file: Path) -> dict[str, Any]:
    """Return the content of a YAML file, every plain value as text; empty where it is not one."""
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def too_deep(place: str) -> LowRankError:
    """Return the error for what is nested more deeply than can be parsed."""
    return LowRankError(f"{place} is nested too deeply; write it with fewer levels")


def brief(value: Any, longest: int = 120) -> str:
    """Return the representation of a value, cut in the middle where it is long."""
    text = repr(value)
    return text if len(text) <= longest else f"{text[: longest - 10]} ... {text[-4:]}"


def short_name(file: Path) -> str:
    """Return the name of a file as messages show it: `conf/model/x.yaml`."""
    parts = file.parts
    return "/".join(parts[-2:] if file.stem == "config" else parts[-3:])
