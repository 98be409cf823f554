"""Images: the functions of `modality.Modality`, for networks from `build` and transformers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.vision.build import build_network
from lowrank_bench.inputs.vision.files import load_network, load_pretrained, save_network
from lowrank_bench.inputs.vision.images import Encoded, batches, encode
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
    "read_encoded",
    "save_network",
    "train",
    "with_dense",
    "write_encoded",
]

NOT_STORED = "encoded images are not stored; encode them in every job"


def processor_name(processor: ImageSettings) -> None:
    """Return None: decoding images in every job is cheaper than storing their pixels."""


def write_encoded(encoded: Encoded, folder: Path) -> None:
    """Refuse: `processor_name` says that encoded images are not stored."""
    raise LowRankError(NOT_STORED)


def read_encoded(folder: Path) -> Encoded:
    """Refuse, as `write_encoded` does."""
    raise LowRankError(NOT_STORED)


def initial_network(
    spec: Mapping[str, Any], folder: Path | None, inputs: Mapping[str, Any], seed: int
) -> tuple[nn.Module, ImageSettings]:
    """Return the network before training, and its image settings."""
    settings, classes = settings_of(inputs), len(inputs["labels"])
    if folder is None:
        sizes = dict(spec.get("sizes") or {})
        shape = (classes, settings.size, settings.channels)
        model = build_network(spec["architecture"], *shape, seed, spec.get("shortcut"), **sizes)
        return model, settings
    torch.manual_seed(seed)  # decides the weights of a new last layer
    return load_pretrained(folder, classes), settings


def published_network(
    spec: Mapping[str, Any],
    folder: Path,
    inputs: Mapping[str, Any],
    recipe: Mapping[str, Any],
    title: str,
) -> tuple[nn.Module, ImageSettings, list[int] | None]:
    """Return a network that others trained, and the number of its output for each label."""
    entry = recipe.get("published") or {}
    classes = len(inputs["labels"])
    configured = {"mean": entry.get("mean"), "std": entry.get("std")}
    if spec.get("file"):
        settings = settings_of(inputs, **configured)
        network = {**entry["network"], "channels": settings.channels}
        file = folder / Path(spec["file"]).name
        return from_file(file, network, classes, settings.size), settings, None
    model, order, published = from_transformers(folder, classes, title)
    # The configuration takes precedence over the network's own preprocessor file.
    statistics = {name: value or published[name] for name, value in configured.items()}
    settings = settings_of(inputs, **statistics)
    return model, settings, order


def check_network(model: nn.Module, title: str) -> dict[str, Any]:
    """Refuse a network whose weights are not finite; return facts for the manifest.

    Raises
    ------
    LowRankError
        When a parameter or a buffer contains NaN or Inf.
    """
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise LowRankError(
                f"{title}: {name} contains NaN or Inf; use another checkpoint or lower "
                "recipe.learning_rate"
            )
    return {"parameters": sum(parameter.numel() for parameter in model.parameters())}


def example(processor: ImageSettings, length: int) -> dict[str, Tensor]:
    """Return the keyword arguments of a forward pass for one image."""
    size = processor.size
    return {"pixel_values": torch.zeros(1, processor.channels, size, size)}


def with_dense(
    model: nn.Module, processor: ImageSettings, encoded: Encoded, max_tokens: int, device: str
) -> Encoded:
    """Return the rows as they are: logits are compared with labels, not with the dense network."""
    return encoded
