"""Load any transformers network in its own class, from a folder or a hub."""

import sys
from pathlib import Path
from typing import Any

from torch import nn

from lowrank_bench.cli.out import MODULES
from lowrank_bench.errors import LowRankError


def load_network(
    name: str, revision: str | None = None, trust: bool = False
) -> tuple[nn.Module, Any]:
    """Return a network in its own class and precision, and its tokenizer if it has one.

    Parameters
    ----------
    name
        A folder with `config.json` and weights, or a hub repository.
    revision
        Of the repository.
    trust
        Whether code that comes with the network may run.

    Raises
    ------
    LowRankError
        When the network cannot be loaded, is compressed already, or has an unknown class.
    """
    from lowrank_bench.inputs.checked import class_of, load_config, load_model

    folder = Path(name) if Path(name).exists() else _fetched(name, revision, trust)
    if (folder / "lowrank.json").is_file():
        raise LowRankError(f"{name} is compressed already; compress the original network")
    config = load_config(folder, trust)
    model = load_model(class_of(folder, config, trust), folder, trust, dtype="auto")
    return model, _tokenizer(folder, trust)


def _fetched(name: str, revision: str | None, trust: bool) -> Path:
    """Return the folder of a hub's repository, whose configuration is checked before the rest."""
    from lowrank_bench.download import hub
    from lowrank_bench.download.network import required_files
    from lowrank_bench.inputs.checked import CONFIG, load_config

    def _wanted(files: list[str]) -> list[str]:
        code = [file for file in files if trust and file.endswith(".py")]
        parts = [file for file in files if file == MODULES]
        return [*required_files(files, name), *code, *parts]

    try:
        load_config(hub.fetch_folder(name, revision, lambda _: [CONFIG]), trust)
        return hub.fetch_folder(name, revision, _wanted)
    except LowRankError as error:
        raise LowRankError(f"{name} is no folder here, and from the hub: {error}") from None


def _tokenizer(folder: Path, trust: bool) -> Any:
    """Return the tokenizer of a folder; None, with a warning where it has one that fails."""
    from lowrank_bench.inputs.checked import load_tokenizer

    files = [file.name for file in folder.glob("*") if "token" in file.name or "vocab" in file.name]
    try:
        tokenizer = load_tokenizer(folder, trust)
    except LowRankError as error:
        if files:
            print(f"warning: no tokenizer will be written: {error}", file=sys.stderr)
        return None
    # Without tokenizer files transformers makes a tokenizer that knows only special tokens.
    known = len(tokenizer.get_vocab()) > len(tokenizer.all_special_ids)
    return tokenizer if known else None
