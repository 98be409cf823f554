"""A network for images on disk: safetensors and JSON, with what is needed to build it again."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.vision.build import build_network
from lowrank_bench.inputs.vision.settings import ImageSettings

SETTINGS, WEIGHTS = "image.json", "weights.safetensors"


def save_network(model: nn.Module, processor: ImageSettings, folder: Path) -> None:
    """Write a network and how its images are prepared.

    Raises
    ------
    LowRankError
        When the network is neither one of `build` nor one of transformers.
    """
    about: dict[str, Any] = {"image": processor.to_dict()}
    if hasattr(model, "rebuild"):
        about["network"] = model.rebuild
        tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
        save_file(tensors, folder / WEIGHTS)
    elif hasattr(model, "save_pretrained"):
        model.save_pretrained(folder)
    else:
        raise LowRankError(
            f"a {type(model).__name__} cannot be written: it was not made by build_network, nor "
            "is it one of transformers"
        )
    (folder / SETTINGS).write_text(json.dumps(about, indent=1))


def load_network(folder: Path) -> tuple[nn.Module, ImageSettings]:
    """Return a network and how its images are prepared; float32, evaluation mode, on the CPU.

    Raises
    ------
    LowRankError
        When a file is missing or does not fit.
    """
    try:
        about = json.loads((folder / SETTINGS).read_text())
        settings = ImageSettings(**about["image"])
        if "network" not in about:
            return load_pretrained(folder), settings
        model = build_network(**about["network"])
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:160]
        raise LowRankError(f"no network for images can be read from {folder}: {reason}") from None
    return model.eval(), settings


def load_pretrained(folder: Path, classes: int | None = None) -> nn.Module:
    """Return a classifier of transformers, float32, in evaluation mode.

    Parameters
    ----------
    classes
        Outputs; a last layer with another number is drawn anew. None takes it as it is.
    """
    from transformers import AutoModelForImageClassification

    changes = {} if classes is None else {"num_labels": classes, "ignore_mismatched_sizes": True}
    model = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32, **changes)
    return model.eval()
