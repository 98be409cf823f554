"""DenseNet-BC for small images (Huang et al. 2017)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowrank_bench.inputs.vision.image_network import ImageNetwork

BOTTLENECK = 4  # outputs of a layer's 1×1 convolution, as a multiple of the growth


class DenseLayer(nn.Module):
    """A 1×1 and a 3×3 convolution, whose output is concatenated to the input.

    Parameters
    ----------
    channels, growth
        Channels of the input, and channels that are added to it.
    """

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, BOTTLENECK * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(BOTTLENECK * growth)
        self.conv2 = nn.Conv2d(BOTTLENECK * growth, growth, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return n×(channels + growth)×h×w."""
        out = self.conv1(F.relu(self.bn1(x)))
        out = self.conv2(F.relu(self.bn2(out)))
        return torch.cat((x, out), 1)


class Transition(nn.Module):
    """Halves the channels, the height and the width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return n×(channels // 2)×(h // 2)×(w // 2)."""
        return F.avg_pool2d(self.conv1(F.relu(self.bn1(x))), 2)


class DenseNet(ImageNetwork):
    """Three dense blocks with transitions between them.

    Parameters
    ----------
    layers
        Number n of layers per block; the network has 6n + 4 layers with weights.
    classes, channels
        Number of outputs, and channels of the input.
    width
        Channels that each layer adds (the growth).
    """

    dense1: nn.Sequential
    trans1: Transition
    dense2: nn.Sequential
    trans2: Transition
    dense3: nn.Sequential

    def __init__(self, layers: int, classes: int, channels: int = 3, width: int = 12) -> None:
        super().__init__()
        before = 2 * width
        self.conv1 = nn.Conv2d(channels, before, 3, 1, 1, bias=False)
        for block in (1, 2, 3):
            stack = (DenseLayer(before + i * width, width) for i in range(layers))
            self.add_module(f"dense{block}", nn.Sequential(*stack))
            before += layers * width
            if block < 3:
                self.add_module(f"trans{block}", Transition(before))
                before //= 2
        self.bn = nn.BatchNorm2d(before)
        self.fc = nn.Linear(before, classes)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the logits, n×classes, of images n×channels×h×w with h, w ≥ 4."""
        x = self.trans1(self.dense1(self.conv1(pixel_values)))
        x = self.dense3(self.trans2(self.dense2(x)))
        x = F.relu(self.bn(x))
        logits: Tensor = self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits
