"""Networks for small images by name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.vision.densenet import DenseNet
from lowrank_bench.inputs.vision.resnet import CifarResNet
from lowrank_bench.inputs.vision.vgg import Vgg16
from lowrank_bench.inputs.vision.wide_resnet import WideResNet


@dataclass(frozen=True)
class Family:
    """What sets an architecture apart.

    Attributes
    ----------
    make
        Its class; called with `classes`, `channels` and the sizes.
    sizes
        Sizes that may be changed, with what they are by default.
    least
        Side of the smallest image that it takes, in pixels.
    shortcut
        Whether there is a choice of shortcuts.
    """

    make: Callable[..., nn.Module]
    sizes: dict[str, int]
    least: int
    shortcut: bool = False


def _resnet(depth: int) -> Family:
    return Family(CifarResNet, {"blocks": (depth - 2) // 6, "width": 16}, 4, shortcut=True)


FAMILIES = {
    **{f"resnet{depth}": _resnet(depth) for depth in (20, 32, 44, 56, 110)},
    "vgg16_bn": Family(Vgg16, {"width": 64}, 32),
    "densenet22": Family(DenseNet, {"layers": 3, "width": 12}, 4),
    "wrn16_8": Family(WideResNet, {"blocks": 2, "width": 128}, 4),
}


def build_network(
    architecture: str,
    classes: int,
    size: int = 32,
    channels: int = 3,
    seed: int = 0,
    shortcut: str | None = None,
    **sizes: int,
) -> nn.Module:
    """Return a network with random weights, in evaluation mode; `forward(pixel_values)`: logits.

    Convolutions are drawn as He et al. (2015) do, by their outputs. Torch's global seed has no
    influence and is left as it was. The attribute `rebuild` holds this function's arguments.

    Parameters
    ----------
    architecture
        A name of `FAMILIES`.
    classes, channels, size
        Outputs, and channels and side of the images.
    seed
        Seed of the weights.
    shortcut
        `A` or `B` (the default), for residual networks.
    **sizes
        Changes of the family's `sizes`.

    Raises
    ------
    LowRankError
        When an argument is unknown or out of range, or the images are too small.
    """
    family = _family(architecture, shortcut, sizes, size)
    given: dict[str, Any] = {**family.sizes, **sizes}
    if family.shortcut:
        given["shortcut"] = shortcut or "B"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = family.make(classes=classes, channels=channels, **given)
        _draw(model)
    model.rebuild = {  # what `files.load_network` needs
        "architecture": architecture,
        "classes": classes,
        "size": size,
        "channels": channels,
        "shortcut": given.get("shortcut"),
        **{name: given[name] for name in family.sizes},
    }
    return model.eval()


def _family(architecture: str, shortcut: str | None, sizes: dict[str, int], size: int) -> Family:
    if architecture not in FAMILIES:
        raise LowRankError(f"no network {architecture!r}; there are {', '.join(FAMILIES)}")
    family = FAMILIES[architecture]
    for name, value in sizes.items():
        if name not in family.sizes:
            raise LowRankError(
                f"{architecture} has no size {name!r}; there are {', '.join(family.sizes)}"
            )
        if value < 1:
            raise LowRankError(f"{architecture}: {name} = {value} is below 1")
    if shortcut and not family.shortcut:
        raise LowRankError(f"{architecture} has no choice of shortcuts; take `shortcut` out")
    if size < family.least:
        raise LowRankError(
            f"{architecture} takes images of {family.least}×{family.least} pixels and more, not "
            f"{size}×{size}; set image.size or take another network"
        )
    return family


def _draw(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
