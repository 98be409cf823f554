"""Image networks on disk: safetensors, and JSON with what is needed to build them again."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.checked import load_model
from lowrank_bench.inputs.vision.build import build_network
from lowrank_bench.inputs.vision.settings import ImageSettings

SETTINGS, WEIGHTS = "image.json", "weights.safetensors"


def save_network(model: nn.Module, processor: ImageSettings, folder: Path) -> None:
    """Write a network and its image settings.

    Raises
    ------
    LowRankError
        When the network comes neither from `build` nor from transformers.
    """
    facts: dict[str, Any] = {"image": processor.to_dict()}
    save_pretrained = getattr(model, "save_pretrained", None)
    if hasattr(model, "rebuild"):
        facts["network"] = model.rebuild
        tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
        save_file(tensors, folder / WEIGHTS)
    elif save_pretrained is not None:
        save_pretrained(folder)
    else:
        raise LowRankError(
            f"a {type(model).__name__} cannot be written: it comes neither from build_network nor "
            "from transformers"
        )
    (folder / SETTINGS).write_text(json.dumps(facts, indent=1))


def load_network(folder: Path) -> tuple[nn.Module, ImageSettings]:
    """Return a network and its image settings; float32, in evaluation mode, on the CPU.

    Raises
    ------
    LowRankError
        When a file is missing, damaged or does not match the network.
    """
    try:
        facts = json.loads((folder / SETTINGS).read_text())
        settings = ImageSettings(**facts["image"])
        if "network" not in facts:
            return load_pretrained(folder), settings
        model = build_network(**facts["network"])
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:160]
        raise LowRankError(f"cannot read an image network from {folder}: {reason}") from None
    return model.eval(), settings


def load_pretrained(folder: Path, classes: int | None = None) -> nn.Module:
    """Return an image classifier from transformers, float32, in evaluation mode.

    Parameters
    ----------
    classes
        Number of outputs; a last layer with another number is replaced by a new, random one. None
        keeps the last layer.
    """
    from transformers import AutoModelForImageClassification

    changes: dict[str, Any] = {}
    if classes is not None:
        changes = {"num_labels": classes, "ignore_mismatched_sizes": True}
    return load_model(AutoModelForImageClassification, folder, dtype=torch.float32, **changes)
