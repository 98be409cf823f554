"""Image networks that others trained: from a torch.save file, or a transformers repository."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.vision.build import build_network
from lowrank_bench.inputs.vision.files import load_pretrained

PREFIX = "module."  # nn.DataParallel puts it before every name
RENAMED = {"linear.": "fc."}  # akamaster's name of the last layer → ours


def load_weights(file: Path, model: nn.Module) -> None:
    """Load the weights in a torch.save file into a network, without executing any code in it.

    Raises
    ------
    LowRankError
        When it is not a file of weights, or its tensors do not match the network's.
    """
    try:
        content = torch.load(file, weights_only=True, map_location="cpu")
        tensors: Mapping[str, Tensor] = content.get("state_dict", content)
        weights = {_layer_name(name): tensor.float() for name, tensor in tensors.items()}
    except Exception as error:  # torch raises almost anything for what is not its own
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        if "weights_only" in str(error):
            reason = "it holds more than tensors, and such a pickle is not opened"
        raise LowRankError(
            f"{file.name} has no weights from torch.save: {reason}; download it again, or name "
            "another file"
        ) from None
    expected = model.state_dict()
    # Old files lack the counters of batch norms, which evaluation does not use.
    missing = [n for n in expected if n not in weights and not n.endswith("num_batches_tracked")]
    extra = [n for n in weights if n not in expected]
    if missing or extra:
        raise LowRankError(
            f"{file.name} does not match the network: missing {_brief(missing)}, unexpected "
            f"{_brief(extra)}; correct architecture, shortcut or sizes in published.<task>.network"
        )
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            raise LowRankError(
                f"{file.name}: {name} has shape {tuple(tensor.shape)}, in the network "
                f"{tuple(expected[name].shape)}; correct published.<task>.network"
            )
    model.load_state_dict(weights, strict=False)


def _layer_name(name: str) -> str:
    """Return the name that this package gives to a published tensor."""
    name = name.removeprefix(PREFIX)
    for theirs, ours in RENAMED.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def _brief(names: list[str]) -> str:
    return f"{names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}" if names else "nothing"


def from_file(file: Path, network: Mapping[str, Any], classes: int, size: int) -> nn.Module:
    """Return the network that a configuration describes, with the weights in a file.

    Parameters
    ----------
    network
        `architecture`, and optionally `shortcut`, `sizes` and `channels`.
    """
    options = {name: network[name] for name in ("shortcut", "channels") if network.get(name)}
    sizes = network.get("sizes") or {}
    model = build_network(network["architecture"], classes, size, **options, **sizes)
    load_weights(file, model)
    return model.eval()


def from_transformers(
    folder: Path, classes: int, title: str
) -> tuple[nn.Module, list[int] | None, dict[str, Any]]:
    """Return a network, the order of its outputs, and the `mean` and `std` of its training images.

    The number of classes is compared, not their names. Networks from TensorFlow have one more
    output, the first, for the background; it is left out.

    Raises
    ------
    LowRankError
        When the number of outputs is not that of the classes.
    """
    model = load_pretrained(folder)
    config: Any = model.config  # of transformers
    names = config.id2label
    order = None
    if len(names) == classes + 1 and names[0] == "background":
        order = list(range(1, classes + 1))
    elif len(names) != classes:
        raise LowRankError(
            f"{title}: the published network has {len(names)} outputs, the task {classes} labels; "
            "use a network for this task"
        )
    file = folder / "preprocessor_config.json"
    pixels = json.loads(file.read_text()) if file.is_file() else {}
    return model, order, {"mean": pixels.get("image_mean"), "std": pixels.get("image_std")}
