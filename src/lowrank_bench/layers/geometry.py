"""The geometry of a convolution: its stride, padding and dilation, and the input as it pads it."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

OPTIONS = ("stride", "padding", "dilation", "padding_mode")


def convolution_options(layer: nn.Module) -> dict[str, Any]:
    """Return stride, padding, dilation and padding mode as keyword arguments of a convolution.

    Parameters
    ----------
    layer
        An `nn.Conv2d` or a `FactorizedConv2d`.
    """
    return {name: getattr(layer, name) for name in OPTIONS}


def convolution_spec(layer: Any) -> dict[str, Any]:
    """Return the arguments that compressed convolutions share, as JSON values."""
    padding = layer.padding if isinstance(layer.padding, str) else list(layer.padding)
    return {
        "in_channels": layer.in_channels,
        "out_channels": layer.out_channels,
        "kernel_size": list(layer.kernel_size),
        "stride": list(layer.stride),
        "padding": padding,
        "dilation": list(layer.dilation),
        "padding_mode": layer.padding_mode,
        "bias": layer.bias is not None,
    }


def padded_input(layer: nn.Conv2d, images: Tensor) -> Tensor:
    """Return images b×c×h×w with the padding that a convolution adds to them.

    This is what `nn.Conv2d` itself pads by; it knows "same" as well as pairs of numbers.
    """
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return functional.pad(images, layer._reversed_padding_repeated_twice, mode)
