"""Build networks for small images by name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.vision.densenet import DenseNet
from lowrank_bench.inputs.vision.image_network import ImageNetwork
from lowrank_bench.inputs.vision.resnet import CifarResNet
from lowrank_bench.inputs.vision.vgg import Vgg16
from lowrank_bench.inputs.vision.wide_resnet import WideResNet

MOST = 4096  # channels or blocks


@dataclass(frozen=True)
class Family:
    """An architecture and its options.

    Attributes
    ----------
    make
        The class; called with `classes`, `channels` and the sizes.
    sizes
        The sizes that may be changed, with their defaults.
    least
        Side of the smallest image the network accepts, in pixels.
    shortcut
        Whether the kind of shortcut can be chosen.
    """

    make: Callable[..., ImageNetwork]
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
) -> ImageNetwork:
    """Return a network with random weights, in evaluation mode.

    Convolutions are initialised as in He et al. (2015), by their fan-out. Torch's global random
    state has no influence and does not change. The attribute `rebuild` stores the arguments.

    Parameters
    ----------
    architecture
        A name of `FAMILIES`.
    classes, channels, size
        Number of outputs, and channels and side of the images.
    seed
        Seed of the weights.
    shortcut
        `A` or `B` (the default), for residual networks.
    **sizes
        Replace the defaults in the family's `sizes`.

    Raises
    ------
    LowRankError
        When an argument is unknown or out of range, or the images are too small.
    """
    family = _family(architecture, shortcut, sizes, size)
    options: dict[str, Any] = {**family.sizes, **sizes}
    if family.shortcut:
        options["shortcut"] = shortcut or "B"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = family.make(classes=classes, channels=channels, **options)
        _initialise(model)
    model.rebuild = {  # `files.load_network` builds the network again from these
        "architecture": architecture,
        "classes": classes,
        "size": size,
        "channels": channels,
        "shortcut": options.get("shortcut"),
        **{name: options[name] for name in family.sizes},
    }
    return model.eval()


def _family(architecture: str, shortcut: str | None, sizes: dict[str, int], size: int) -> Family:
    """Return a family after checking the arguments of `build_network`."""
    if architecture not in FAMILIES:
        raise LowRankError(f"no network {architecture!r}; choose one of {', '.join(FAMILIES)}")
    family = FAMILIES[architecture]
    for name, value in sizes.items():
        if name not in family.sizes:
            raise LowRankError(
                f"{architecture} has no size {name!r}, only {', '.join(family.sizes)}"
            )
        if value < 1:
            raise LowRankError(f"{architecture}: {name} = {value} is below 1")
        if value > MOST:
            raise LowRankError(f"{architecture}: {name} = {value} is above {MOST}")
    if shortcut and not family.shortcut:
        raise LowRankError(f"{architecture} has no choice of shortcuts; remove `shortcut`")
    if size < family.least:
        raise LowRankError(
            f"{architecture} needs images of at least {family.least}×{family.least} pixels, not "
            f"{size}×{size}; raise image.size or use another network"
        )
    return family


def _initialise(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            # Last bits of normal numbers depend on the processor: draw more bits than are kept.
            weight = torch.empty_like(module.weight, dtype=torch.float64)
            nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")
            with torch.no_grad():
                module.weight.copy_(weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
