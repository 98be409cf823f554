"""The files of a pretrained network, checked against their SHA-256."""

import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lowrank_bench.download import hub
from lowrank_bench.errors import LowRankError
from lowrank_bench.store.digest import file_digest

_TOKENIZER = (
    r"(tokenizer.*|vocab.*|merges\.txt|special_tokens_map\.json|added_tokens\.json|.*\.model)"
)


def fetch_network(repo: str, revision: str, file: str | None, folder: Path) -> dict[str, Any]:
    """Download a network's configuration, weights and tokenizer to a folder.

    Parameters
    ----------
    file
        Download only this file; None for all that loading needs.

    Returns
    -------
    dict
        `repo`, its `commit`, and the `sha256` of each file.

    Raises
    ------
    LowRankError
        When the hub cannot be reached, or a file is missing.
    """
    files, commit = hub.list_files(repo, revision, "model")
    for name in _chosen(files, repo, file):
        shutil.copyfile(hub.fetch(repo, name, revision, "model"), folder / Path(name).name)
    sha256 = {copy.name: file_digest(copy) for copy in folder.iterdir()}
    return {"repo": repo, "commit": commit, "sha256": sha256}


def check_network(
    name: str, repo: str, actual: Mapping[str, str], expected: Mapping[str, str]
) -> None:
    """Compare the SHA-256 of files with those in the configuration and in the file names.

    Parameters
    ----------
    name
        The model's name in the configuration, for the message.
    actual, expected
        SHA-256 by file name; an expected one may be a prefix.

    Raises
    ------
    LowRankError
        When a file is missing or has the wrong checksum.
    """
    for file, prefix in {**_checksums_in_names(actual), **expected}.items():
        if not actual.get(file, "").startswith(prefix):
            raise LowRankError(
                f"{repo}: {file} has SHA-256 {actual.get(file, 'nothing')}, not {prefix}; it is "
                "damaged or another file: empty the hub's cache (HF_HOME) or correct "
                f"model.{name}.sha256"
            )


def _checksums_in_names(files: Iterable[str]) -> dict[str, str]:
    """Return the checksum prefixes in file names, as in `resnet20-12fca82f.th`."""
    matches = ((name, re.search(r"-([0-9a-f]{8})\.\w+$", name)) for name in files)
    return {name: match[1] for name, match in matches if match}


def _chosen(files: list[str], repo: str, file: str | None) -> list[str]:
    """Return which files of a repository are needed: `file` alone, or all that loading needs."""
    if not file:
        return required_files(files, repo)
    if file not in files:
        raise LowRankError(f"hub repository {repo} has no file {file}, only {', '.join(files)}")
    return [file]


def required_files(files: list[str], repo: str) -> list[str]:
    """Return which files of a repository are needed to load its network, config.json first.

    Raises
    ------
    LowRankError
        When it has no configuration or no weights.
    """
    top = [name for name in files if "/" not in name]
    weights = [n for n in top if re.fullmatch(r"model.*\.safetensors(\.index\.json)?", n)]
    # Weights in torch's own format are the second choice: safetensors cannot contain code.
    weights = weights or [
        n for n in top if re.fullmatch(r"pytorch_model.*\.bin(\.index\.json)?", n)
    ]
    if not weights or "config.json" not in top:
        raise LowRankError(
            f"hub repository {repo} has no config.json and model weights in its top folder"
        )
    tokenizer = [name for name in top if re.fullmatch(_TOKENIZER, name)]
    pixels = [name for name in top if name == "preprocessor_config.json"]
    return ["config.json", *weights, *tokenizer, *pixels]
