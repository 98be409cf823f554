"""The base class of the networks for small images."""

from typing import Any

from torch import nn


class ImageNetwork(nn.Module):
    """A network whose `forward(pixel_values)` returns the logits of images.

    Attributes
    ----------
    rebuild
        The arguments with which `build.build_network` builds the network again.
    """

    rebuild: dict[str, Any]
