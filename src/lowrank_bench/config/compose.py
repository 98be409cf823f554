"""Compose the configuration of an experiment with Hydra and validate it."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from lowrank_bench.config.explain import explain
from lowrank_bench.config.guard import (
    brief,
    check_file,
    check_overrides,
    check_references,
    experiment_file,
    read_keys,
    short_name,
    too_deep,
)
from lowrank_bench.config.schema import Config
from lowrank_bench.config.statements import statements
from lowrank_bench.errors import LowRankError

GROUPS = ("experiment", "model", "task", "method")


def load_config(folder: Path, overrides: Sequence[str] = ()) -> Config:
    """Compose `folder`/config.yaml with Hydra-style `overrides` and validate the result.

    Parameters
    ----------
    folder
        The Hydra tree (`conf/`).
    overrides
        In Hydra's syntax: `experiment=NAME`, `method=[svd,lp]`, `model.bert.recipe.epochs=2`.

    Raises
    ------
    LowRankError
        For an unknown entry or key, or an invalid value: one line with the key, its file and the
        nearest valid name.
    """
    return validated(_compose(Path(folder).resolve(), list(overrides)), Path(folder), overrides)


def validated(values: Mapping[str, Any], folder: Path, overrides: Sequence[str] = ()) -> Config:
    """Return the configuration that composed values make up.

    `folder` and `overrides` are where they come from, for the message.

    Raises
    ------
    LowRankError
        As `load_config`.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        text = explain(error, folder, values, overrides)
        raise LowRankError(" ".join(text.split())) from None  # a key may hold line breaks


def overrides_of(settings: Mapping[str, Any]) -> list[str]:
    """Convert the settings of Snakemake's `--config` into overrides.

    `experiment=NAME` and every other `key=value` become overrides of that key. The key
    `overrides` holds a list of further overrides, which may name nested keys.
    """
    settings = dict(settings)
    settings.pop("report", None)  # added by the Snakefile itself
    listed = settings.pop("overrides", [])
    listed = [listed] if isinstance(listed, str) else [str(item) for item in listed]
    return [f"{key}={_text(value)}" for key, value in settings.items()] + listed


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{','.join(_text(item) for item in value)}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_text(item)}" for key, item in value.items()) + "}"
    return "null" if value is None else str(value)


def _compose(folder: Path, overrides: list[str]) -> dict[str, Any]:
    check_overrides(overrides)
    for file in _files([folder]):
        check_file(file)
    trees = [folder, *(place / "conf" for place in plugin_folders(folder, overrides))]
    for file in _files(trees[1:]):
        check_file(file)
    _check_groups(trees, overrides)
    _check_sections(experiment_file(folder, overrides))
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(folder), version_base="1.3"):
            composed = compose("config", [_searched(trees), *map(_forced, overrides)])
        check_references(OmegaConf.to_container(composed, resolve=False))
        values: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except LowRankError:
        raise
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise LowRankError(_one_line(error, trees)) from None
    except RecursionError:
        raise too_deep(_deepest(trees, overrides)) from None
    except Exception as error:  # whatever Hydra and its parsers let through
        raise LowRankError(_one_line(error, trees, overrides)) from None
    if not isinstance(values, dict):
        raise LowRankError(f"{folder.name}/config.yaml holds no keys; write `key: value` lines")
    for section, entries in statements(folder, values.get("name")).items():
        mine = values.get(section) or {}
        values[section] = {**entries, **mine} if isinstance(mine, dict) else mine
    return _chosen_only(values, experiment_file(folder, overrides))


def _files(trees: Sequence[Path]) -> list[Path]:
    """Return all files from which an experiment can be composed."""
    return [
        file
        for tree in trees
        for pattern in ("config.yaml", *(f"{group}/*.yaml" for group in GROUPS))
        for file in sorted(tree.glob(pattern))
        if file.is_file()
    ]


def _deepest(trees: Sequence[Path], overrides: Sequence[str]) -> str:
    """Return what is nested more deeply than the parser of YAML goes."""
    texts = {f"the override of {item.partition('=')[0]}": item for item in overrides}
    texts |= {f"{file.parent.name}/{file.name}": file.read_text() for file in _files(trees)}
    return max(texts, key=lambda name: len(re.findall(r"[\[{]", texts[name])))


def plugin_folders(folder: Path, overrides: Sequence[str]) -> list[Path]:
    """Return what the key `plugins` will hold, which Hydra must know before it composes.

    Overrides come before the experiment's file, and that before config.yaml. A value that is not
    a list of names is left to validation.

    Raises
    ------
    LowRankError
        When a folder does not exist.
    """
    chosen: Any = []
    for file in (folder / "config.yaml", experiment_file(folder, overrides)):
        chosen = read_keys(file).get("plugins", chosen)
    for override in overrides:
        key, _, text = override.partition("=")
        if key.lstrip("+") == "plugins":
            with suppress(yaml.YAMLError, RecursionError):
                chosen = yaml.load(text, Loader=yaml.BaseLoader)
    names = chosen if isinstance(chosen, list) else []
    folders = [Path(name).expanduser() for name in names if isinstance(name, str)]
    for place in folders:
        if not _is_folder(place):
            raise LowRankError(
                f"plugins names the folder {brief(str(place))}, which does not exist; correct its "
                "path"
            )
    return folders


def _is_folder(place: Path) -> bool:
    try:
        return place.is_dir()
    except OSError:  # a name that is too long
        return False


def _searched(trees: Sequence[Path]) -> str:
    """Return the override that lets Hydra look into the trees of plug-ins after its own."""
    texts = [str(tree.resolve()).replace("'", "\\'") for tree in trees[1:] if tree.is_dir()]
    places = ",".join(f"'file://{text}'" for text in texts)
    return f"hydra.searchpath=[{places}]"


def _chosen_only(values: dict[str, Any], file: Path) -> dict[str, Any]:
    """Drop the settings of an experiment for entries that the command line did not choose.

    An experiment may set `task.sst2.train.limit`. With the override `task=[rte]`, that would leave
    an incomplete task sst2. `file` is the file of the experiment.
    """
    settings = read_keys(file)
    # An entry without its one required key was not chosen.
    for group, whole in (("model", "source"), ("task", "source"), ("method", "name")):
        entries, named = values.get(group), settings.get(group)
        if not isinstance(entries, dict) or not isinstance(named, Mapping):
            continue  # validation says so
        for name in named:
            entry = entries.get(name)
            if isinstance(entry, Mapping) and whole not in entry:
                del entries[name]
    return values


def _forced(override: str) -> str:
    """Let a plain `key=value` set keys that are in no file; validation checks them later."""
    key = override.split("=", 1)[0]
    return override if key in GROUPS or not re.match(r"\w", key) else f"++{override}"


def _check_groups(trees: Sequence[Path], overrides: list[str]) -> None:
    for override in overrides:
        key, _, value = override.partition("=")
        if key in GROUPS:
            for name in re.split(r"[\[\], ]+", value.strip("[] ")):
                check_member(trees, key, name)


def _check_sections(file: Path) -> None:
    """Refuse an experiment's file that gives a list where entries have their settings."""
    for group, value in read_keys(file).items():
        if group in GROUPS[1:] and not isinstance(value, Mapping):
            raise LowRankError(
                f"{group} = {brief(value)} in {short_name(file)} is not valid: it should be a "
                f"section with settings of entries; to choose entries, write `override /{group}: "
                "[...]` under `defaults`"
            )


def check_member(trees: Sequence[Path], group: str, name: str) -> None:
    """Raise a `LowRankError` unless `group`/`name`.yaml exists in one of the trees."""
    known = sorted(file.stem for tree in trees for file in (tree / group).glob("*.yaml"))
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        raise LowRankError(
            f"unknown {group} {brief(name)}: no file {trees[0].name}/{group}/{name[:100]}.yaml; "
            f"{hint}"
        )


def _one_line(error: Exception, trees: Sequence[Path], overrides: Sequence[str] = ()) -> str:
    text = str(error).split("\n\n")[0]
    missing = re.search(r"(?:find|load) '(\w+)/([\w-]+)'", text)
    if missing:
        try:
            check_member(trees, *missing.groups())
        except LowRankError as known:
            return str(known)
    words = " ".join(text.split())[:300] or type(error).__name__
    words = re.sub(r"In '([\w/-]+)': ", rf"{trees[0].name}/\1.yaml: ", words)
    if overrides:  # an error that says nothing of where it comes from
        words += f" (files {trees[0].name}/*, overrides {brief(' '.join(overrides))})"
    return f"configuration: {words}; correct the file or the override that holds it"
