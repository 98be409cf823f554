"""What an experiment needs of a store, as its results folder says it."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lowrank_bench.errors import LowRankError
from lowrank_bench.store.checksum import DamagedError
from lowrank_bench.store.manifest import read_manifest

HOLDINGS = "artifacts.json"
# Kinds whose keys no plan knows, with the fact that tells what they belong to, and its name here.
BY_FACT = {"encoded": ("task", "tasks"), "facts": ("checkpoint", "checkpoints")}


class Holdings:
    """Which artifacts experiments rest on.

    Parameters
    ----------
    files
        The files `artifacts.json` of their results folders.

    Raises
    ------
    LowRankError
        When a file is missing or cannot be read.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._keys: dict[str, set[str]] = {}
        self._named: dict[str, set[str]] = {name: set() for _, name in BY_FACT.values()}
        for file in files:
            content = _read(file)
            for kind, keys in content["keys"].items():
                self._keys.setdefault(kind, set()).update(keys)
            for name, known in self._named.items():
                known.update(content[name])

    def need(self, kind: str, place: Path) -> bool:
        """Return whether an artifact is needed; of what they know nothing it is assumed."""
        if kind in self._keys:
            return place.name.partition(".")[0] in self._keys[kind]
        if kind not in BY_FACT:
            return True
        fact, name = BY_FACT[kind]
        try:
            return read_manifest(place)["about"].get(fact) in self._named[name]
        except (DamagedError, OSError):  # `verify` has more to say on it
            return True

    def missing(self, kind: str, present: Iterable[str]) -> int:
        """Return how many artifacts of a kind are not among the keys of those present."""
        return len(self._keys.get(kind, set()) - set(present))


def holdings_of(results: Iterable[Path]) -> Holdings:
    """Return what all experiments with results in some folders need.

    Raises
    ------
    LowRankError
        When a folder has no experiments, or one whose needs are not known.
    """
    plans: list[Path] = []
    for folder in results:
        listed = sorted(folder.glob("*/plan.json"))
        if not listed:
            raise LowRankError(f"{folder} has no results of an experiment; name it with --results")
        plans += listed
    return Holdings(plan.with_name(HOLDINGS) for plan in plans)


def _read(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_text())
        if {"keys", *(name for _, name in BY_FACT.values())} <= content.keys():
            return content
    except (OSError, ValueError, AttributeError):
        pass
    raise LowRankError(
        f"{file} is missing or damaged; run the experiment {file.parent.name} again (snakemake "
        f"--config experiment={file.parent.name}), which writes it, or remove {file.parent}"
    )
