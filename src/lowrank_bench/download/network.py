"""The files of a pretrained network, checked against their SHA-256."""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from lowrank_bench.download import hub
from lowrank_bench.errors import LowRankError
from lowrank_bench.plan.cells import Source
from lowrank_bench.store.digest import file_digest
from lowrank_bench.store.store import Store

_TOKENIZER = (
    r"(tokenizer.*|vocab.*|merges\.txt|special_tokens_map\.json|added_tokens\.json|.*\.model)"
)


def download_network(source: Source, store: Store) -> Path:
    """Return the store's folder with the network's configuration, weights and tokenizer.

    When the source names a `file`, that file alone is fetched.

    Raises
    ------
    LowRankError
        When the hub cannot be reached, a file is missing, or a checksum does not match.
    """
    found = store.folder("network", source.key, deep=True)
    if found:
        check_network(source, store.manifest(found)["sha256"])
        return found
    repo, revision = source.spec["repo"], source.spec["revision"]
    files, commit = hub.list_files(repo, revision, "model")
    about = {"repo": repo, "commit": commit}
    with store.new_folder("network", source.key, about) as fresh:
        for name in _wanted(files, repo, source.spec.get("file")):
            shutil.copyfile(hub.fetch(repo, name, revision, "model"), fresh / Path(name).name)
        about["sha256"] = {file.name: file_digest(file) for file in fresh.iterdir()}
        check_network(source, about["sha256"])
    return store.place("network", source.key)


def check_network(source: Source, found: dict[str, str]) -> None:
    """Compare the SHA-256 of files with those that the configuration expects.

    Raises
    ------
    LowRankError
        When a file is missing or has another checksum.
    """
    for name, expected in {**_named(found), **source.checks["sha256"]}.items():
        if not found.get(name, "").startswith(expected):
            raise LowRankError(
                f"{source.spec['repo']}: {name} has SHA-256 {found.get(name, 'nothing')}, not "
                f"{expected}; the file is damaged or another one: empty the hub's cache (HF_HOME) "
                f"or correct model.{source.name}.sha256"
            )


def _named(files: Iterable[str]) -> dict[str, str]:
    """Return the starts of checksums that stand in file names, as `resnet20-12fca82f.th`."""
    matches = ((name, re.search(r"-([0-9a-f]{8})\.\w+$", name)) for name in files)
    return {name: match[1] for name, match in matches if match}


def _wanted(files: list[str], repo: str, file: str | None) -> list[str]:
    if file:
        if file not in files:
            raise LowRankError(
                f"hub repository {repo} holds no file {file}; there are {', '.join(files)}"
            )
        return [file]
    top = [name for name in files if "/" not in name]
    weights = [n for n in top if re.fullmatch(r"model.*\.safetensors(\.index\.json)?", n)]
    weights = weights or [
        n for n in top if re.fullmatch(r"pytorch_model.*\.bin(\.index\.json)?", n)
    ]
    if not weights or "config.json" not in top:
        raise LowRankError(
            f"hub repository {repo} holds no config.json with model weights beside it"
        )
    tokenizer = [name for name in top if re.fullmatch(_TOKENIZER, name)]
    pixels = [name for name in top if name == "preprocessor_config.json"]
    return ["config.json", *weights, *tokenizer, *pixels]
