"""The claims and the papers' numbers that belong to an experiment, from their own files.

They decide nothing that is computed, and most belong to other experiments: Hydra, which would take
longer for them than for everything else, does not see them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lowrank_bench.config.guard import check_file, short_name
from lowrank_bench.errors import LowRankError

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def statements(folder: Path, experiment: Any) -> dict[str, dict[str, Any]]:
    """Return the entries of an experiment as its sections `claims` and `reference`.

    Parameters
    ----------
    folder
        `conf/`, with `claims.yaml` and the files of `reference/`, named after the papers.
    experiment
        The experiment's name; entries list the experiments that they belong to.

    Raises
    ------
    LowRankError
        When a file is no mapping, or cannot be read.
    """
    claims = _read(folder / "claims.yaml").get("claims") or {}
    if not isinstance(claims, Mapping):
        raise LowRankError("claims.yaml: claims should be a section with an entry for each claim")
    papers = {file.stem: _read(file) for file in sorted(folder.glob("reference/*.yaml"))}
    sections = {"claims": claims, "reference": papers}
    return {
        section: {name: entry for name, entry in entries.items() if _names(entry, experiment)}
        for section, entries in sections.items()
    }


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    check_file(file)
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=LOADER)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())[:300]
        raise LowRankError(f"{short_name(file)} cannot be read: {reason}") from None
    if not isinstance(content, dict):
        raise LowRankError(f"{short_name(file)} holds no keys; write `key: value` lines")
    return content


def _names(entry: Any, experiment: Any) -> bool:
    """Return whether an entry belongs to an experiment; what is malformed is left to validation."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("experiments"), list):
        return True
    return experiment in entry["experiments"]
