"""Residual networks for small images (He et al. 2016, section 4.2)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.vision.image_network import ImageNetwork
from lowrank_bench.layers.shortcut import PaddedShortcut

SHORTCUTS = ("A", "B")


class BasicBlock(nn.Module):
    """Two 3×3 convolutions, added to the input.

    Parameters
    ----------
    channels, width
        Channels of the input and of the output.
    stride
        Of the first convolution.
    shortcut
        `A` or `B`, for a block whose output has a different shape from its input.
    """

    def __init__(self, channels: int, width: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _downsample(channels, width, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """Return n×width×⌈h/stride⌉×⌈w/stride⌉."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


def _downsample(channels: int, width: int, stride: int, shortcut: str) -> nn.Module | None:
    if stride == 1 and channels == width:
        return None
    if shortcut == "A":
        new = width - channels
        return PaddedShortcut(new // 2, new - new // 2, stride)
    return nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))


class CifarResNet(ImageNetwork):
    """A residual network of three stages whose widths are `width`, 2·`width` and 4·`width`.

    Parameters
    ----------
    blocks
        Number n of blocks per stage; the network has 6n + 2 layers with weights.
    classes, channels
        Number of outputs, and channels of the input.
    width
        Channels of the first stage.
    shortcut
        `A`: without parameters; `B`: a 1×1 convolution and a batch norm.

    Raises
    ------
    LowRankError
        For an unknown shortcut.
    """

    def __init__(
        self, blocks: int, classes: int, channels: int = 3, width: int = 16, shortcut: str = "B"
    ) -> None:
        super().__init__()
        if shortcut not in SHORTCUTS:
            raise LowRankError(f"no shortcut {shortcut!r}; choose one of {', '.join(SHORTCUTS)}")
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, blocks, 1, shortcut)
        self.layer2 = _stage(width, 2 * width, blocks, 2, shortcut)
        self.layer3 = _stage(2 * width, 4 * width, blocks, 2, shortcut)
        self.fc = nn.Linear(4 * width, classes)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the logits, n×classes, of images n×channels×h×w."""
        x = F.relu(self.bn1(self.conv1(pixel_values)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


def _stage(channels: int, width: int, blocks: int, stride: int, shortcut: str) -> nn.Sequential:
    first = BasicBlock(channels, width, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(width, width, 1, shortcut) for _ in range(blocks - 1)))
