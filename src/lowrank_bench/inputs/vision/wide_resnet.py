"""Wide residual networks for small images (Zagoruyko and Komodakis 2016)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class WideBlock(nn.Module):
    """Two 3×3 convolutions, each after batch norm and ReLU, and what came in.

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
        ready = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(ready))))
        # A block that changes the width shares the normalised input with its shortcut.
        return out + (x if self.shortcut is None else self.shortcut(ready))


class WideResNet(nn.Module):
    """Three stages of widths `width`, 2·`width` and 4·`width` behind a convolution of 16 channels.

    Parameters
    ----------
    blocks
        Blocks n a stage; the network has 6n + 4 layers with weights.
    classes, channels
        Outputs, and channels of the input.
    width
        Channels of the first stage: 16 times the widening factor.
    """

    def __init__(self, blocks: int, classes: int, channels: int = 3, width: int = 128) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        before = 16
        for stage, factor in enumerate((1, 2, 4), start=1):
            wide = factor * width
            rest = (WideBlock(wide, wide, 1) for _ in range(blocks - 1))
            first = WideBlock(before, wide, 1 if stage == 1 else 2)
            self.add_module(f"layer{stage}", nn.Sequential(first, *rest))
            before = wide
        self.bn = nn.BatchNorm2d(before)
        self.fc = nn.Linear(before, classes)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the logits, n×classes, of images n×channels×h×w."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(pixel_values))))
        x = F.relu(self.bn(x))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
