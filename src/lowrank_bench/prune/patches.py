"""The search for the largest shares of channels in the patches of some images.

Most shares are never formed. Three bounds, each closer and costlier than the one before, leave out
first whole patches, then channels of a patch, then filters; what is left is computed.
"""

from functools import reduce
from math import prod

import torch
from torch import Tensor

from lowrank_bench.prune.signed_weights import FLOOR, SignedWeights

ENTRIES = 2**20  # shares that are computed at a time


class Patches:
    """The patches of some images and the sums that a layer computes from them, one row for each.

    Parameters
    ----------
    weights
        Those of the layer; its `best` shares are raised.
    x
        Inputs of the layer with their padding, n×h'×w'×c ≥ 0.
    parts
        W⁺x and W⁻x in the units of `weights`, n×h×w×2f ≥ 0.
    """

    def __init__(self, weights: SignedWeights, x: Tensor, parts: Tensor) -> None:
        self.weights, self.x = weights, x.contiguous()
        image, row, column = self._open(parts).nonzero(as_tuple=True)
        (down, right), (_, height, width, _) = weights.stride, x.shape
        # Pixels are numbered through all images: the first pixel of each patch, and how much
        # larger the numbers of its other pixels are.
        self.corners = (image * height + row * down) * width + column * right
        self.shifts = self._shifts()
        self.peaks = self._peaks()
        _, height, width, count = parts.shape
        rows = (image * height + row) * width + column
        sums = parts.reshape(-1, count).index_select(0, rows)
        # Dividing by infinity makes the shares of tiny sums 0.
        self.sums = sums.masked_fill_(sums <= weights.tiny, torch.inf)

    def search(self) -> None:
        """Raise the weights' `best` to the largest shares in these patches."""
        if not len(self.sums):
            return
        weights, bounds = self.weights, self._bounds()
        # The patch of the highest bound first: its shares raise the limits for all others.
        value, rows = bounds.max(0)
        channels = (value > weights.limits).nonzero()[:, 0]
        self._evaluate(rows[channels], channels)
        rows, channels = (bounds > weights.limits).nonzero(as_tuple=True)
        most = max(1, ENTRIES // self.sums.shape[1])
        for start in range(0, len(rows), most):
            self._evaluate(rows[start : start + most], channels[start : start + most])

    def _open(self, parts: Tensor) -> Tensor:
        """Return which patches may hold a share above the limits, n×h×w bool.

        A share is at most the channel's largest weight, times its largest input, over the smallest
        sum of any filter.
        """
        weights = self.weights
        gain = (self.x * (weights.level / weights.limits.clamp(min=1e-30))).amax(3)
        # The maximum over the pixels of a patch, first over its height, then over its width.
        for dim, count in ((1, parts.shape[1]), (2, parts.shape[2])):
            step, gap = weights.stride[dim - 1], weights.dilation[dim - 1]
            shifts = range(0, weights.size[dim - 1] * gap, gap)
            spans = [gain.narrow(dim, at, (count - 1) * step + 1) for at in shifts]
            spans = [span[:, ::step] if dim == 1 else span[:, :, ::step] for span in spans]
            gain = reduce(torch.maximum, spans)
        return gain > parts.amin(3)  # sums of 0 leave a patch open; their shares are 0 later

    def _shifts(self) -> Tensor:
        """Return how much larger the numbers of a patch's pixels are than that of its first."""
        down, right = (
            torch.arange(size, device=self.x.device) * gap
            for size, gap in zip(self.weights.size, self.weights.dilation, strict=True)
        )
        shifts: Tensor = down[:, None] * self.x.shape[2] + right
        return shifts.flatten()

    def _peaks(self) -> Tensor:
        """Return the largest input of each channel in each patch, rows×c."""
        pixels = self.x.view(-1, self.x.shape[3])
        peaks = pixels.index_select(0, self.corners)
        for shift in self.shifts[1:]:
            torch.maximum(peaks, pixels.index_select(0, self.corners + shift), out=peaks)
        return peaks

    def _bounds(self) -> Tensor:
        """Return an upper bound on the shares of each channel in each patch, rows×c.

        A share is at most the largest weight of the filter for the channel, times the largest
        input of the channel in the patch, over the sum. The 16-norm over the filters is at least
        their maximum, and is one product of matrices. Factors below `FLOOR` of the largest are
        raised to it.
        """
        weights = self.weights
        inverse = self.sums.reciprocal()
        # Relative to the largest of each patch, so that no 16th power overflows.
        top = inverse.amax(1, keepdim=True)
        inverse.mul_(top.clamp(min=1e-30).reciprocal_()).clamp_(min=FLOOR)
        # Four squarings make the 16th power, and four roots undo it.
        bounds = inverse.square_().square_().square_().square_() @ weights.powers
        bounds.sqrt_().sqrt_().sqrt_().sqrt_().clamp_(min=FLOOR)
        return bounds.mul_(top).mul_(weights.level).mul_(self.peaks)

    def _evaluate(self, rows: Tensor, channels: Tensor) -> None:
        """Compute the shares of some channels in some patches, for filters that can be the best."""
        if not len(rows):
            return
        weights, sums = self.weights, self.sums.index_select(0, rows)
        # The third bound is that of each filter alone, without the norm over all.
        most = weights.largest.index_select(0, channels).div_(sums)
        limit = weights.limits[channels] / self.peaks[rows, channels]
        pairs, filters = (most > limit[:, None]).nonzero(as_tuple=True)
        self._compute(rows[pairs], channels[pairs], filters, sums[pairs, filters])

    def _compute(self, rows: Tensor, channels: Tensor, filters: Tensor, sums: Tensor) -> None:
        """Compute the shares of single filters, channels and patches, and keep the best."""
        weights, count = self.weights, self.x.shape[3]
        # Offsets of the patches' corners in the flattened inputs, and of pixels from a corner.
        first = self.corners[rows] * count + channels
        shifts = self.shifts * count
        flat = self.x.view(-1)
        step = max(1, ENTRIES // prod(weights.size))
        # Blocks of at most ENTRIES products bound the memory.
        for at in range(0, len(rows), step):
            part = slice(at, at + step)
            inputs = flat[first[part, None] + shifts]
            kernels = weights.by_channel[channels[part], filters[part]]
            shares = (kernels * inputs).amax(1) / sums[part]
            weights.best.scatter_reduce_(0, channels[part], shares, "amax")
