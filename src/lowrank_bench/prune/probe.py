"""A layer that computes what another one does, and watches the shares of its input channels."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from lowrank_bench.layers.geometry import padded_input
from lowrank_bench.prune.patches import Patches
from lowrank_bench.prune.signed_weights import SignedWeights


class Probe(nn.Module):
    """A layer that computes its output in two parts, W⁺x and W⁻x, and keeps the largest shares.

    Parameters
    ----------
    layer
        The convolution without groups, or linear layer, that it stands in for.

    Attributes
    ----------
    weights
        The weights by sign, with the largest share so far of each input channel.
    usual_layout
        Whether outputs must lie in memory as those of the layer would.
    runs
        How often the layer has run.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self.usual_layout, self.runs = False, 0
        self.weights, self.bias = SignedWeights(layer), layer.bias
        self.linear = isinstance(layer, nn.Linear)
        for name in layer.__constants__:  # some networks read them, as MobileNet its padding
            setattr(self, name, getattr(layer, name))
        self._pad: Callable[[Tensor], Tensor] | None = None
        if isinstance(layer, nn.Conv2d) and any(layer._reversed_padding_repeated_twice):
            self._pad = partial(padded_input, layer)

    @property
    def weight(self) -> Tensor:
        """Return the weights by sign; some networks read the type of a layer's weight."""
        return self.weights.parts

    def forward(self, inputs: Tensor) -> Tensor:
        """Return what the layer returns, up to rounding."""
        self.runs += 1
        x = inputs.reshape(-1, inputs.shape[-1], 1, 1) if self.linear else inputs
        # Shares are of sums without cancellation: inputs of both signs are two inputs ≥ 0.
        if x.numel() and x.amin() < 0:
            output = self._half(x.clamp(min=0)) - self._half((-x).clamp(min=0))
        else:
            output = self._half(x)
        if self.bias is not None:
            output = output + self.bias.view(1, -1, 1, 1)
        if self.usual_layout:
            output = output.contiguous()
        return output.view(*inputs.shape[:-1], output.shape[1]) if self.linear else output

    def _half(self, x: Tensor) -> Tensor:
        """Return the output without bias, n×f×h×w, for an input x ≥ 0, and search its shares."""
        weights = self.weights
        if self._pad is not None:
            x = self._pad(x)
        if weights.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        parts = functional.conv2d(
            x, weights.parts, stride=weights.stride, dilation=weights.dilation
        )
        Patches(weights, x.permute(0, 2, 3, 1), parts.permute(0, 2, 3, 1)).search()
        positive, negative = parts.chunk(2, dim=1)
        return (positive * weights.scale[0]).addcmul_(negative, weights.scale[1], value=-1)
