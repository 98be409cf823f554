"""Load any transformers network in its own class, from a folder or a hub."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn

from lowrank_bench.errors import LowRankError


def load_network(name: str, revision: str | None = None) -> tuple[nn.Module, Any]:
    """Return a network in its own class and precision, and its tokenizer if it has one.

    Parameters
    ----------
    name
        A folder with `config.json` and weights, or a hub repository.

    Raises
    ------
    LowRankError
        When the network cannot be loaded, is compressed already, or has an unknown class.
    """
    import transformers

    if Path(name).exists() and not (Path(name) / "config.json").is_file():
        raise LowRankError(f"{name} has no config.json; name the folder of a transformers network")
    if (Path(name) / "lowrank.json").is_file():
        raise LowRankError(f"{name} is compressed already; compress the original network")
    try:
        config = transformers.AutoConfig.from_pretrained(name, revision=revision)
        cls = getattr(transformers, (config.architectures or ["AutoModel"])[0])
        model = cls.from_pretrained(name, revision=revision, dtype="auto").eval()
    except (OSError, ValueError, AttributeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise LowRankError(
            f"cannot load {name}: {reason}; name a folder or a hub repository, and set "
            "HF_ENDPOINT for another hub"
        ) from None
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, revision=revision)
    except (OSError, ValueError, KeyError):
        return model, None
    # Without tokenizer files transformers makes a tokenizer that knows only special tokens.
    known = len(tokenizer.get_vocab()) > len(tokenizer.all_special_ids)
    return model, tokenizer if known else None
