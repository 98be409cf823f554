"""Wide residual networks for small images (Zagoruyko and Komodakis 2016)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowrank_bench.inputs.vision.image_network import ImageNetwork


class WideBlock(nn.Module):
    """Two 3×3 convolutions, each after batch norm and ReLU, added to the input.

    Parameters
    ----------
    channels, width
        Channels of the input and of the output.
    stride
        Of the first convolution.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.shortcut = (
            None if channels == width else nn.Conv2d(channels, width, 1, stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return n×width×⌈h/stride⌉×⌈w/stride⌉."""
        normalised = F.relu(self.bn1(x))
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(normalised))))
        # A block that changes the width shares the normalised input with its shortcut.
        shortcut: Tensor = x if self.shortcut is None else self.shortcut(normalised)
        return out + shortcut


class WideResNet(ImageNetwork):
    """Three stages of widths `width`, 2·`width` and 4·`width` after a convolution to 16 channels.

    Parameters
    ----------
    blocks
        Number n of blocks per stage; the network has 6n + 4 layers with weights.
    classes, channels
        Number of outputs, and channels of the input.
    width
        Channels of the first stage: 16 times the widening factor.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential

    def __init__(self, blocks: int, classes: int, channels: int = 3, width: int = 128) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        before = 16
        for stage, factor in enumerate((1, 2, 4), start=1):
            widened = factor * width
            rest = (WideBlock(widened, widened, 1) for _ in range(blocks - 1))
            first = WideBlock(before, widened, 1 if stage == 1 else 2)
            self.add_module(f"layer{stage}", nn.Sequential(first, *rest))
            before = widened
        self.bn = nn.BatchNorm2d(before)
        self.fc = nn.Linear(before, classes)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the logits, n×classes, of images n×channels×h×w."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(pixel_values))))
        x = F.relu(self.bn(x))
        logits: Tensor = self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits
