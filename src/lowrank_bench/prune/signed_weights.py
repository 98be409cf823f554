"""The weights of a layer split by sign, and what bounds the shares of its input channels."""

import torch
from torch import Tensor, nn

# Sums up to this size count as 0, and so do the shares in them.
TINY = torch.finfo(torch.float32).eps
# The exponent p of the norm, and the smallest float32 whose p-th power is a normal number;
# arithmetic with subnormal numbers is slow.
POWER, FLOOR = 16, 4.3e-3
# Bounds carry rounding errors of float32: those just below the best share so far count as above.
SAFE = 1 - 1e-4
# Shares above this are 1 but for rounding: the channel alone makes a whole output.
SATURATED = 1 - 1e-6


class SignedWeights:
    """W⁺ and W⁻ of a layer with f filters and c input channels, and the largest shares so far.

    Parameters
    ----------
    layer
        A convolution without groups, or a linear layer, which counts as a convolution of 1×1.

    Attributes
    ----------
    parts
        W⁺ above W⁻, 2f×c×k1×k2 ≥ 0, each filter in units of its largest weight.
    scale
        These units, 2×1×f×1×1.
    tiny
        `TINY` in these units, 2f.
    size, stride, dilation
        Of the kernel.
    by_channel
        The same weights c×2f×k1k2.
    largest
        The largest weight of each channel in each filter, c×2f.
    level
        The largest weight of each channel in any filter, c.
    powers
        The 16th powers of `largest` / `level`, 2f×c.
    best
        Largest share so far of each input channel, c float32.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        weight = layer.weight.detach()
        weight = weight.view(*weight.shape, *[1] * (4 - weight.ndim))
        self.size = tuple(weight.shape[2:])
        self.stride, self.dilation = (1, 1), (1, 1)
        if isinstance(layer, nn.Conv2d):
            (s1, s2), (d1, d2) = layer.stride, layer.dilation
            self.stride, self.dilation = (s1, s2), (d1, d2)
        parts = torch.cat([weight.clamp(min=0), (-weight).clamp(min=0)])
        # In units of their largest weight all filters are comparable, which keeps a bound over all
        # of them tight. Shares do not depend on the units.
        scale = parts.flatten(1).amax(1).clamp(min=1e-30)
        self.tiny = TINY / scale
        self.scale = scale.view(2, 1, -1, 1, 1)
        self.parts = parts / scale.view(-1, 1, 1, 1)
        # Measured on CPUs with AVX-512: convolutions of few channels are faster in this layout.
        self.channels_last = weight.shape[1] <= 128
        if self.channels_last:
            self.parts = self.parts.contiguous(memory_format=torch.channels_last)
        self.by_channel = self.parts.flatten(2).transpose(0, 1).contiguous()
        self.largest = self.by_channel.amax(2)
        self.level = self.largest.amax(1).clamp(min=1e-30)
        powers = (self.largest / self.level[:, None]).clamp(min=FLOOR).pow(POWER)
        self.powers = powers.T.contiguous()
        self.best = weight.new_zeros(weight.shape[1])

    @property
    def limits(self) -> Tensor:
        """Return what a bound must exceed for a closer look, for each channel; c float32."""
        return torch.where(self.best >= SATURATED, torch.inf, self.best * SAFE)
