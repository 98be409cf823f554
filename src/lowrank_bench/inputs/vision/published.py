"""Weights for images that others trained: a file of torch.save, or a repository of transformers."""

import json
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.vision.build import build_network
from lowrank_bench.inputs.vision.files import load_pretrained

PREFIX = "module."  # what nn.DataParallel puts before every name
RENAMED = {"linear.": "fc."}  # of akamaster's residual networks


def load_weights(file: Path, model: nn.Module) -> None:
    """Put the weights of a file of torch.save into a network; nothing of it is executed.

    Raises
    ------
    LowRankError
        When the file is no such file, or its tensors are not the network's.
    """
    try:
        content = torch.load(file, weights_only=True, map_location="cpu")
        tensors: Mapping[str, Tensor] = content.get("state_dict", content)
        named = {_own_name(name): tensor.float() for name, tensor in tensors.items()}
    except (OSError, RuntimeError, UnpicklingError, EOFError, AttributeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise LowRankError(f"{file.name} holds no weights of torch.save: {reason}") from None
    wanted = model.state_dict()
    absent = [n for n in wanted if n not in named and not n.endswith("num_batches_tracked")]
    extra = [n for n in named if n not in wanted]
    if absent or extra:
        raise LowRankError(
            f"{file.name} does not fit the network: it lacks {_some(absent)} and has {_some(extra)}"
            " beside it; correct architecture, shortcut or sizes in published.<task>.network"
        )
    for name, tensor in named.items():
        if tensor.shape != wanted[name].shape:
            raise LowRankError(
                f"{file.name}: {name} has shape {tuple(tensor.shape)}, the network "
                f"{tuple(wanted[name].shape)}; correct published.<task>.network"
            )
    model.load_state_dict(named, strict=False)


def _own_name(name: str) -> str:
    name = name.removeprefix(PREFIX)
    for theirs, own in RENAMED.items():
        if name.startswith(theirs):
            return own + name.removeprefix(theirs)
    return name


def _some(names: list[str]) -> str:
    return f"{names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}" if names else "nothing"


def from_file(file: Path, network: Mapping[str, Any], classes: int, size: int) -> nn.Module:
    """Return the network that a configuration describes with the weights of a file.

    Parameters
    ----------
    network
        `architecture`, and `shortcut`, `sizes` and `channels` where they matter.
    """
    more = {name: network[name] for name in ("shortcut", "channels") if network.get(name)}
    sizes = network.get("sizes") or {}
    model = build_network(network["architecture"], classes, size, **more, **sizes)
    load_weights(file, model)
    return model.eval()


def from_transformers(
    folder: Path, classes: int, title: str
) -> tuple[nn.Module, list[int] | None, dict[str, Any]]:
    """Return a network, which output means which class, and the mean and std it was trained with.

    Classes are compared by their number, not by name. Networks of TensorFlow's zoo have one
    output more, the first, for the background; it is left out.

    Raises
    ------
    LowRankError
        When the number of outputs is another.
    """
    model = load_pretrained(folder)
    names = model.config.id2label
    order = None
    if len(names) == classes + 1 and names[0] == "background":
        order = list(range(1, classes + 1))
    elif len(names) != classes:
        raise LowRankError(
            f"{title}: the published network has {len(names)} outputs, the task {classes} labels; "
            "take the network of this task"
        )
    file = folder / "preprocessor_config.json"
    said = json.loads(file.read_text()) if file.is_file() else {}
    return model, order, {"mean": said.get("image_mean"), "std": said.get("image_std")}
