"""Images: the functions of `modality.Modality`, for networks of `build` and of transformers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.vision.build import build_network
from lowrank_bench.inputs.vision.files import load_network, load_pretrained, save_network
from lowrank_bench.inputs.vision.images import batches, encode
from lowrank_bench.inputs.vision.predict import predict
from lowrank_bench.inputs.vision.published import from_file, from_transformers
from lowrank_bench.inputs.vision.settings import ImageSettings, settings_of
from lowrank_bench.inputs.vision.training import train

__all__ = [
    "batches",
    "check_network",
    "encode",
    "example",
    "initial_network",
    "load_network",
    "predict",
    "processor_name",
    "published_network",
    "save_network",
    "train",
]


def processor_name(processor: ImageSettings) -> None:
    """Return None: images are decoded anew, which is cheap beside what they would fill on disk."""


def initial_network(
    spec: Mapping[str, Any], folder: Path | None, inputs: Mapping[str, Any], seed: int
) -> tuple[nn.Module, ImageSettings]:
    """Return the network before training and how its images are prepared."""
    settings, classes = settings_of(inputs), len(inputs["labels"])
    if folder is None:
        sizes = dict(spec.get("sizes") or {})
        shape = (classes, settings.size, settings.channels)
        args = (seed, spec.get("shortcut"))
        return build_network(spec["architecture"], *shape, *args, **sizes), settings
    torch.manual_seed(seed)  # a fresh last layer is drawn from it
    return load_pretrained(folder, classes), settings


def published_network(
    spec: Mapping[str, Any],
    folder: Path,
    inputs: Mapping[str, Any],
    recipe: Mapping[str, Any],
    title: str,
) -> tuple[nn.Module, ImageSettings, list[int] | None]:
    """Return a network that others trained, and which of its outputs means each label."""
    entry = recipe.get("published") or {}
    classes = len(inputs["labels"])
    stated = {"mean": entry.get("mean"), "std": entry.get("std")}
    if spec.get("file"):
        settings = settings_of(inputs, **stated)
        network = {**entry["network"], "channels": settings.channels}
        file = folder / Path(spec["file"]).name
        return from_file(file, network, classes, settings.size), settings, None
    model, order, trained = from_transformers(folder, classes, title)
    settings = settings_of(inputs, **{name: stated[name] or trained[name] for name in stated})
    return model, settings, order


def check_network(model: nn.Module, title: str) -> dict[str, Any]:
    """Refuse a network whose weights are not finite; return what the manifest says of it.

    Raises
    ------
    LowRankError
        When a parameter or a buffer holds NaN or Inf.
    """
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise LowRankError(
                f"{title}: {name} holds NaN or Inf; take another checkpoint or lower "
                "recipe.learning_rate"
            )
    return {"parameters": sum(parameter.numel() for parameter in model.parameters())}


def example(processor: ImageSettings, length: int) -> dict[str, Tensor]:
    """Return the keyword arguments of a forward of one image."""
    size = processor.size
    return {"pixel_values": torch.zeros(1, processor.channels, size, size)}
