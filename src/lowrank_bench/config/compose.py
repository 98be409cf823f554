"""Compose the configuration of an experiment with Hydra and validate it."""

import re
from collections.abc import Mapping, Sequence
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
    _check_groups(folder, overrides)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(folder), version_base="1.3"):
            composed = compose("config", [_forced(item) for item in overrides])
        values = OmegaConf.to_container(composed, resolve=True)
        asked = [item.partition("=")[2] for item in overrides if item.startswith("experiment=")]
        return _chosen_only(values, folder / "experiment" / f"{(asked or [DEFAULT])[-1]}.yaml")
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise LowRankError(_one_line(error, folder)) from None


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


def _check_groups(folder: Path, overrides: list[str]) -> None:
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise LowRankError(f"override {override!r} has no '='; write key=value")
        if key in GROUPS:
            for name in re.split(r"[\[\], ]+", value.strip("[] ")):
                check_member(folder, key, name)


def check_member(folder: Path, group: str, name: str) -> None:
    """Raise a `LowRankError` unless `folder`/`group`/`name`.yaml exists."""
    known = sorted(file.stem for file in (folder / group).glob("*.yaml"))
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        raise LowRankError(
            f"unknown {group} {name!r}: no file {folder.name}/{group}/{name}.yaml; {hint}"
        )


def _one_line(error: Exception, folder: Path) -> str:
    text = str(error).split("\n\n")[0]
    missing = re.search(r"(?:find|load) '(\w+)/([\w-]+)'", text)
    if missing:
        try:
            check_member(folder, *missing.groups())
        except LowRankError as known:
            return str(known)
    return f"configuration: {' '.join(text.split())}"
