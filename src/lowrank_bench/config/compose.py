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
from lowrank_bench.config.schema import Config
from lowrank_bench.errors import LowRankError

GROUPS = ("experiment", "model", "task", "method")
DEFAULT = "quickstart"  # the experiment of config.yaml


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
    values = _compose(Path(folder).resolve(), list(overrides))
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise LowRankError(explain(error, Path(folder), values, overrides)) from None


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
    trees = [folder, *(place / "conf" for place in plugin_folders(folder, overrides))]
    _check_groups(trees, overrides)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(folder), version_base="1.3"):
            composed = compose("config", [_searched(trees), *map(_forced, overrides)])
        values = OmegaConf.to_container(composed, resolve=True)
        return _chosen_only(values, _experiment_file(folder, overrides))
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise LowRankError(_one_line(error, trees)) from None


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
    for file in (folder / "config.yaml", _experiment_file(folder, overrides)):
        with suppress(OSError, yaml.YAMLError, AttributeError):
            chosen = yaml.safe_load(file.read_text()).get("plugins", chosen)
    for override in overrides:
        key, _, text = override.partition("=")
        if key.lstrip("+") == "plugins":
            with suppress(yaml.YAMLError):
                chosen = yaml.safe_load(text)
    names = chosen if isinstance(chosen, list) else []
    folders = [Path(name).expanduser() for name in names if isinstance(name, str)]
    for place in folders:
        if not place.is_dir():
            raise LowRankError(f"plugins names the folder {place}, which does not exist")
    return folders


def _experiment_file(folder: Path, overrides: Sequence[str]) -> Path:
    asked = [item.partition("=")[2] for item in overrides if item.startswith("experiment=")]
    return folder / "experiment" / f"{(asked or [DEFAULT])[-1]}.yaml"


def _searched(trees: Sequence[Path]) -> str:
    """Return the override that lets Hydra look into the trees of plug-ins after its own."""
    places = ",".join(f"'file://{tree.resolve()}'" for tree in trees[1:] if tree.is_dir())
    return f"hydra.searchpath=[{places}]"


def _chosen_only(values: Any, file: Path) -> dict[str, Any]:
    """Drop the settings of an experiment for entries that the command line did not choose.

    An experiment may set `task.sst2.train.limit`. With the override `task=[rte]`, that would leave
    an incomplete task sst2. `file` is the file of the experiment.
    """
    assert isinstance(values, dict), "the top level of a configuration is a mapping"
    settings = yaml.safe_load(file.read_text()) if file.is_file() else {}
    # An entry without its one required key was not chosen.
    for group, whole in (("model", "source"), ("task", "source"), ("method", "name")):
        for name in settings.get(group, {}):
            if whole not in values[group].get(name, {whole: None}):
                del values[group][name]
    return values


def _forced(override: str) -> str:
    """Let a plain `key=value` set keys that are in no file; validation checks them later."""
    key = override.split("=", 1)[0]
    return override if key in GROUPS or not re.match(r"\w", key) else f"++{override}"


def _check_groups(trees: Sequence[Path], overrides: list[str]) -> None:
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise LowRankError(f"override {override!r} has no '='; write key=value")
        if key in GROUPS:
            for name in re.split(r"[\[\], ]+", value.strip("[] ")):
                check_member(trees, key, name)


def check_member(trees: Sequence[Path], group: str, name: str) -> None:
    """Raise a `LowRankError` unless `group`/`name`.yaml exists in one of the trees."""
    known = sorted(file.stem for tree in trees for file in (tree / group).glob("*.yaml"))
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        raise LowRankError(
            f"unknown {group} {name!r}: no file {trees[0].name}/{group}/{name}.yaml; {hint}"
        )


def _one_line(error: Exception, trees: Sequence[Path]) -> str:
    text = str(error).split("\n\n")[0]
    missing = re.search(r"(?:find|load) '(\w+)/([\w-]+)'", text)
    if missing:
        try:
            check_member(trees, *missing.groups())
        except LowRankError as known:
            return str(known)
    return f"configuration: {' '.join(text.split())}"
