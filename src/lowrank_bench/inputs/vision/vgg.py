"""VGG16 with batch norm for small images (Simonyan and Zisserman 2015, one linear layer)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowrank_bench.inputs.vision.image_network import ImageNetwork

# Widths of each block's convolutions, as multiples of the first; every block ends in a pooling.
_BLOCKS = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))


class Vgg16(ImageNetwork):
    """Thirteen 3×3 convolutions with batch norms, five poolings, one linear layer.

    Parameters
    ----------
    classes, channels
        Number of outputs, and channels of the input.
    width
        Channels of the first convolution.
    """

    def __init__(self, classes: int, channels: int = 3, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for block in _BLOCKS:
            for factor in block:
                layers.append(nn.Conv2d(channels, factor * width, 3, 1, 1))
                channels = factor * width
                layers += [nn.BatchNorm2d(channels), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the logits, n×classes, of images n×channels×h×w with h, w ≥ 32."""
        x = self.features(pixel_values)
        logits: Tensor = self.classifier(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits
