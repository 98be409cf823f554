"""Images: the functions of `modality.Modality`, for networks of `build` and of transformers."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_bench.download.network import download_network
from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.vision.build import build_network
from lowrank_bench.inputs.vision.files import load_network, load_pretrained, save_network
from lowrank_bench.inputs.vision.images import batches, encode
from lowrank_bench.inputs.vision.predict import predict
from lowrank_bench.inputs.vision.published import from_file, from_transformers
from lowrank_bench.inputs.vision.settings import ImageSettings, settings_of
from lowrank_bench.inputs.vision.training import train
from lowrank_bench.plan.cells import Checkpoint
from lowrank_bench.store.store import Store

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


def initial_network(point: Checkpoint, store: Store) -> tuple[nn.Module, ImageSettings]:
    """Return the network before training and how its images are prepared."""
    settings, classes = settings_of(point.inputs), len(point.inputs["labels"])
    spec = point.network.spec
    if spec["kind"] == "vision":
        sizes = dict(spec.get("sizes") or {})
        shape = (classes, settings.size, settings.channels)
        args = (point.seed, spec.get("shortcut"))
        return build_network(spec["architecture"], *shape, *args, **sizes), settings
    folder = download_network(point.network, store)
    torch.manual_seed(point.seed)  # a fresh last layer is drawn from it
    return load_pretrained(folder, classes), settings


def published_network(
    point: Checkpoint, store: Store, about: dict[str, Any]
) -> tuple[nn.Module, ImageSettings]:
    """Return a network that others trained; `about["output_order"]` says what its outputs mean."""
    folder = download_network(point.network, store)
    entry = point.recipe.get("published") or {}
    classes = len(point.inputs["labels"])
    about["output_order"] = None
    said = {"mean": entry.get("mean"), "std": entry.get("std")}
    if point.network.spec.get("file"):
        settings = settings_of(point.inputs, **said)
        network = {**entry["network"], "channels": settings.channels}
        file = folder / Path(point.network.spec["file"]).name
        return from_file(file, network, classes, settings.size), settings
    model, order, own = from_transformers(folder, classes, point.title())
    about["output_order"] = order
    return model, settings_of(point.inputs, **{name: said[name] or own[name] for name in said})


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
