"""Explain a validation error in one line: the key, its value, its file and how to fix it."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from lowrank_bench.config.guard import brief, experiment_file, read_keys
from lowrank_bench.config.schema import Config

SECTIONS = ("dict_type", "model_type", "model_attributes_type", "dataclass_type")
NAMED_GROUPS = ("model", "task", "method")


def explain(
    error: ValidationError, folder: Path, values: Mapping[str, Any], overrides: Sequence[str]
) -> str:
    """Return one line on the first error of a configuration: key, value, place and fix."""
    first = error.errors(include_url=False)[0]
    loc = _without_tags(first["loc"], values)
    key = _shown_key(loc)
    where = _origin(loc, folder, values, overrides)
    if first["type"] == "extra_forbidden":
        known = _fields_at(loc[:-1], values)
        near = get_close_matches(str(loc[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
        return f"unknown key {key!r} in {where}; {hint}"
    if first["type"] == "missing":
        return f"key {key!r} is missing in {where}; add it there"
    message = re.sub("^Input should", "it should", first["msg"].removeprefix("Value error, "))
    if first["type"] in SECTIONS:
        message = "it should be a section, with keys of its own below it; write them there"
        if len(loc) == 1 and loc[0] in NAMED_GROUPS:
            message = f"it should be a section; to choose entries, write `override /{key}: [...]` "
            message += "under `defaults`"
    if not loc:
        # A rule that involves several keys: its message begins with the one to blame.
        blamed = re.match(r"([\w.]+) = ", message)
        keys = blamed[1].split(".") if blamed else []
        return f"{_origin(keys, folder, values, overrides)}: {message}"
    if first["type"] == "value_error" and isinstance(first["input"], Mapping):
        return f"{key} in {where} is not valid: {message}"  # the message names the key within
    return f"{key} = {brief(first['input'])} in {where} is not valid: {message[:400]}"


def _shown_key(loc: Sequence[Any]) -> str:
    key = ".".join(str(part) for part in loc).removesuffix(".[key]")
    return key if len(key) <= 120 else f"{key[:110]}...{key[-7:]}"


def _without_tags(loc: Sequence[Any], values: Any) -> tuple[Any, ...]:
    """Drop the union tags that pydantic puts into a location."""
    out: list[Any] = []
    here = values
    for part in loc:
        if isinstance(here, Mapping):
            # The tag of a section is the value of its key `kind`, not one of its keys.
            if part not in here and here.get("kind") == part:
                continue
            here = here.get(part)
        elif isinstance(here, list) and isinstance(part, int):
            here = here[part] if part < len(here) else None
        else:  # the tag of a plain value: no key leads further into it
            continue
        out.append(part)
    return tuple(out)


def _origin(
    loc: Sequence[Any], folder: Path, values: Mapping[str, Any], overrides: Sequence[str]
) -> str:
    """Return the override or the file that set the key at `loc`."""
    keys = [part for part in loc if isinstance(part, str)]
    # The most specific override of this key or of a section around it. One that only chooses
    # entries of a group, such as `model=[quick_bert]`, does not set their keys.
    named = [
        (override.split("=", 1)[0].lstrip("+~").split("."), override) for override in overrides
    ]
    fitting = [(len(name), text) for name, text in named if name == keys[: len(name)]]
    longest = max(fitting, default=(0, ""))
    if longest[0] > 1 or (longest[0] and keys[0] not in NAMED_GROUPS):
        return f"the override {brief(longest[1])}"
    # Otherwise the first file that holds the key, in order of precedence.
    files = [(experiment_file(folder, overrides), 0), (folder / "config.yaml", 0)]
    if len(keys) > 1 and keys[0] in NAMED_GROUPS:
        plugins = values.get("plugins")
        places = plugins if isinstance(plugins, list) else []
        trees = [folder, *(Path(place) / "conf" for place in places if isinstance(place, str))]
        files[1:1] = [(tree / keys[0] / f"{keys[1]}.yaml", 2) for tree in trees]
    holders = [file for file, skip in files if _holds(file, keys[skip:])]
    if holders:
        return _shown(holders[0], folder)
    # A missing key is in no file: name the one that holds the section around it.
    parents = [file for file, skip in files if _holds(file, keys[skip:-1])]
    return _shown((parents or [files[-1][0]])[0], folder)


def _shown(file: Path, folder: Path) -> str:
    inside = file.is_relative_to(folder.parent)
    return str(file.relative_to(folder.parent) if inside else file)


def _holds(file: Path, keys: Sequence[str]) -> bool:
    here: Any = read_keys(file)
    if not here:
        return False
    for key in keys:
        if not isinstance(here, Mapping) or key not in here:
            return False
        here = here[key]
    return True


def _fields_at(loc: Sequence[Any], values: Any) -> list[str]:
    """Return the valid keys of the section at `loc`."""
    section: Any = Config
    here: Any = values
    for part in loc:
        here = here[part] if isinstance(here, (Mapping, list)) else None
        if isinstance(section, type) and issubclass(section, BaseModel):
            section = section.model_fields[part].annotation
        else:
            section = get_args(section)[-1]  # the values of a dict, the items of a list
        if re.search(r"Union|\|", str(section)):
            section = _member(section, here)
    is_model = isinstance(section, type) and issubclass(section, BaseModel)
    return list(section.model_fields) if is_model else []


def _member(union: Any, here: Any) -> Any:
    """Return the model of a union whose `kind` is that of the section `here`."""
    models = [m for m in get_args(union) if isinstance(m, type) and issubclass(m, BaseModel)]
    kind = here.get("kind") if isinstance(here, Mapping) else None
    for model in models:
        if "kind" in model.model_fields and kind in get_args(model.model_fields["kind"].annotation):
            return model
    return models[0] if models else str
