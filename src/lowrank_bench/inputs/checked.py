"""Read networks in the format of transformers as what they are: files of strangers.

No code from a folder runs, no pickle is opened but as weights alone, and what `config.json` asks
for is compared with a list, or with the size of the weights, before anything is built.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from lowrank_bench.errors import LowRankError

Result = TypeVar("Result")
CONFIG = "config.json"
WEIGHTS = ("*.safetensors", "*.bin")
# The implementations of attention that are part of torch or of a package that the user installed;
# transformers takes any other name for a repository of kernels, and runs what is in it.
ATTENTION = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
MOST_LAYERS = 10_000
TRUST = "read it, and if you trust it, pass --trust-remote-code"


def load_config(folder: Path, trust: bool = False) -> Any:
    """Return the transformers configuration of a folder.

    Parameters
    ----------
    trust
        Whether code in the folder may run.

    Raises
    ------
    LowRankError
        When it is missing, damaged or out of bounds, wants code to run, or says that the weights
        are quantized.
    """
    from transformers import AutoConfig

    values = _read(folder)
    _check_plain(folder, values)
    needs_code = bool(values.get("auto_map")) and not trust
    return _tried(
        folder,
        lambda: AutoConfig.from_pretrained(folder, trust_remote_code=trust),
        f"it brings code of its own ({CONFIG}: auto_map); {TRUST}" if needs_code else "",
    )


def class_of(folder: Path, config: Any, trust: bool = False) -> Any:
    """Return the class of transformers that a configuration names.

    Raises
    ------
    LowRankError
        When transformers has no network of that name, and no trusted code of the folder has.
    """
    import transformers

    name = (config.architectures or ["AutoModel"])[0]
    cls = getattr(transformers, name, None)
    if name == "AutoModel" or (
        isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)
    ):
        return cls
    coded = [key for key in (getattr(config, "auto_map", None) or {}) if "Model" in key]
    if trust and coded:
        return getattr(transformers, coded[0], transformers.AutoModel)
    hint = TRUST if coded else "use another version of transformers, or another network"
    raise LowRankError(f"{folder}: transformers has no network {name[:100]!r}; {hint}")


def load_model(cls: Any, folder: Path, trust: bool = False, **options: Any) -> nn.Module:
    """Return the network in a folder, in evaluation mode, with its weights.

    Parameters
    ----------
    cls
        The class of transformers, or one of its Auto classes.
    **options
        Of `from_pretrained`.

    Raises
    ------
    LowRankError
        As `load_config`, and when the weights are missing, damaged, no tensors, or far from what
        the configuration describes.
    """
    config = load_config(folder, trust)
    _check_size(cls, config, folder)
    options |= {"trust_remote_code": trust, "weights_only": True, "local_files_only": True}
    model: nn.Module
    model, info = _tried(
        folder, lambda: cls.from_pretrained(folder, output_loading_info=True, **options)
    )
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    missing = sum(sizes.get(name, 0) for name in info["missing_keys"])
    if 2 * missing > sum(sizes.values()):
        raise LowRankError(
            f"{folder}: its files of weights lack {missing:,} of the {sum(sizes.values()):,} "
            f"numbers of a {type(model).__name__}, which would be random; download it again"
        )
    return model.eval()


def load_tokenizer(folder: Path, trust: bool = False) -> Any:
    """Return the tokenizer in a folder.

    Raises
    ------
    LowRankError
        When there is none, it is damaged, or it wants code to run.
    """
    from transformers import AutoTokenizer

    return _tried(
        folder,
        lambda: AutoTokenizer.from_pretrained(
            folder, trust_remote_code=trust, local_files_only=True
        ),
    )


def _tried(folder: Path, load: Callable[[], Result], cause: str = "") -> Result:
    """Return what transformers loads; any error of it on a folder of strangers is one line."""
    try:
        return load()
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = cause or " ".join((lines or [type(error).__name__])[0].split())[:200]
        if "weights_only" in str(error) or "weights only" in str(error).lower():
            reason = "its weights are a pickle with more than tensors in it, which is not opened"
        hint = "" if cause else "; name the folder of a transformers network, or repair it"
        raise LowRankError(f"cannot load {folder}: {reason}{hint}") from None


def _read(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LowRankError(
            f"{folder} has no {CONFIG}; name the folder of a transformers network"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:100]
        raise LowRankError(f"{file} is no JSON ({reason}); download the network again") from None
    if not isinstance(values, dict):
        raise LowRankError(f"{file} holds no keys; download the network again")
    return values


def _check_plain(folder: Path, values: dict[str, Any]) -> None:
    """Refuse what this package cannot read right, and what is out of every bound."""
    names = values.get("architectures")
    if names is not None and (
        not isinstance(names, list)
        or not names
        or not all(isinstance(name, str) and re.fullmatch(r"\w{1,100}", name) for name in names)
    ):
        raise LowRankError(
            f"{folder / CONFIG}: architectures = {str(names)[:60]} is no list of names of "
            'networks; correct it, as in ["BertForSequenceClassification"]'
        )
    if values.get("quantization_config"):
        kind = values["quantization_config"]
        kind = kind.get("quant_method", "unknown") if isinstance(kind, dict) else kind
        raise LowRankError(
            f"{folder} holds quantized weights ({str(kind)[:40]}), which cannot be factorized; "
            "name the network that they were made from"
        )
    for key, value in _numbers(values):
        if re.search(r"(layers?|depths?|blocks?)$", key) and value > MOST_LAYERS:
            raise LowRankError(
                f"{folder / CONFIG}: {key[:60]} = {value} is beyond any network; download it again"
            )
    for key in ("attn_implementation", "_attn_implementation", "_attn_implementation_internal"):
        if values.get(key) is not None and values[key] not in ATTENTION:
            raise LowRankError(
                f"{folder / CONFIG}: {key} = {str(values[key])[:60]!r} is not one of "
                f"{', '.join(ATTENTION)}; take it out"
            )


def _numbers(values: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """Yield every number of a configuration that counts something, with its key."""
    if isinstance(values, dict):
        for name, value in values.items():
            yield from _numbers(value, str(name))
    elif isinstance(values, list):
        for value in values:
            yield from _numbers(value, key)
    elif isinstance(values, int) and not isinstance(values, bool):
        yield key, values


def _check_size(cls: Any, config: Any, folder: Path) -> None:
    """Refuse a configuration that describes a far larger network than the weights can fill.

    Built on the device meta, it takes no memory. A classifier that is new here is small.
    """
    stored = sum(file.stat().st_size for kind in WEIGHTS for file in folder.glob(kind))
    build = getattr(cls, "_from_config", None)
    options = {}
    if build is None:
        build, options = cls.from_config, {"trust_remote_code": False}
    if not stored:
        return
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            count = sum(tensor.numel() for tensor in build(config, **options).parameters())
    except Exception:  # what cannot be built there says so when it is loaded
        return
    # One byte each is the least that any type has; files of 100 KB may be all new classifier.
    if count > 2 * stored + 10**7:
        raise LowRankError(
            f"{folder / CONFIG} describes a network of {count:.3g} numbers, and the files of "
            f"weights have {stored:,} bytes; they do not belong together: download the network "
            "again"
        )
