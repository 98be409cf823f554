"""Empirical sensitivity: the largest share that a channel ever has in what a layer computes.

Every weight has one sign, so the share of weight w_it times input a_tp in output (i, p) of image x
is |w_it| a_tp / z_ip with the part z of the output that the weights of that sign make: one number
for each multiplication of the forward. Here most of them are never formed. The p-norm over the
filters i bounds their largest share from above and costs one small product of matrices; what this
bound cannot exclude is computed.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lowrank_bench.device import fixed_threads
from lowrank_bench.errors import LowRankError
from lowrank_bench.network.layers import replaced
from lowrank_bench.network.moments import check_seen
from lowrank_bench.prune.labels import tensors_in

# Sums up to this size are taken for 0, and so are the shares in them.
TINY = torch.finfo(torch.float32).eps
# The norm's exponent, and the smallest float32 whose power is no subnormal number, which are slow.
POWER, FLOOR = 16, 4.3e-3
# Bounds are computed in float32: a channel's best so far must be beaten by this factor of it.
SAFE = 1 - 1e-4
# Shares above this are 1 but for rounding: the channel alone makes a whole output.
SATURATED = 1 - 1e-6
# At a time, so that a layer's numbers stay in the cache; few at first, when nothing is excluded.
IMAGES, FIRST = 24, 6
ENTRIES = 2**20  # of shares at a time
HALF = (torch.float16, torch.bfloat16)


@torch.inference_mode()
def sensitivities(
    model: nn.Module, names: Sequence[str], inputs: Iterable[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Return for each input channel of some layers its largest share over all images.

    Parameters
    ----------
    model
        The network, which is left as it was.
    names
        Of convolutions without groups and linear layers.
    inputs
        Keyword arguments of forwards; the images of a batch do not see each other.

    Returns
    -------
    dict
        Tensors c float32 in [0, 1]: for each channel or feature the maximum over images x, filters
        i, positions t of the kernel and patches p of
        max(W⁺_it a_tp / (W⁺a)_ip, W⁻_it a_tp / (W⁻a)_ip), a share of a sum up to `TINY` being 0.
        Inputs of either sign are split into a⁺ − a⁻, as if each were an image. Half precision is
        computed in float32, all of it on one thread, so that the numbers do not depend on how many
        there are.

    Raises
    ------
    LowRankError
        When what the network gives is NaN or infinite, or a layer does not run.

    References
    ----------
    Liebenwein, Baykal, Lang, Feldman, Rus, "Provable Filter Pruning for Efficient Neural Networks",
    ICLR 2020, section 3 (empirical sensitivity).
    """
    half = any(p.dtype in HALF for p in model.parameters())
    model = copy.deepcopy(model).float() if half else model
    probes = {name: Probe(model.get_submodule(name)) for name in names}
    probed = replaced(model, dict(probes))
    _keep_freed_memory()
    parts = _pieces(inputs)
    if half:
        parts = ({k: v.float() if v.dtype in HALF else v for k, v in p.items()} for p in parts)
    # Threads share out long sums, and a last bit can decide which channels are drawn.
    with fixed_threads(1):
        _run(probed, list(probes.values()), parts)
    check_seen({name: probe.runs for name, probe in probes.items()})
    best = {name: probe.best.cpu() for name, probe in probes.items()}
    return {name: torch.where(values >= SATURATED, 1, values) for name, values in best.items()}


def _keep_freed_memory() -> None:
    """Free a block that was never touched: glibc keeps twice the largest that it has seen.

    It gives the rest back to the system, and a page that comes anew costs more than a pass over it.
    """
    torch.empty(24 * 2**20, dtype=torch.uint8)


def _run(probed: nn.Module, probes: Sequence["Probe"], parts: Iterable[dict[str, Tensor]]) -> None:
    """Run a network with its probes on some images, in the faster memory layout if it can."""
    last = True
    for part in parts:
        if last:
            try:
                check_finite(probed(**_channels_last(part)))
                continue
            except RuntimeError:  # its code views numbers in the order of the usual layout
                last = False
                for probe in probes:
                    probe.usual_layout = True
        check_finite(probed(**part))


def first_examples(
    batches: Iterable[tuple[Mapping[str, Tensor], Tensor | None]], count: int
) -> Iterator[dict[str, Tensor]]:
    """Yield the inputs of the first `count` examples of some batches.

    Raises
    ------
    LowRankError
        When there are none.
    """
    seen = 0
    for inputs, _ in batches:
        size = len(next(iter(inputs.values())))
        if size:
            yield {name: value[: count - seen] for name, value in inputs.items()}
        seen += size
        if seen >= count:
            return
    if not seen:
        raise LowRankError("the calibration batches are empty; give some training inputs")


def check_finite(output: Any) -> None:
    """Check what a network gives on calibration data.

    Raises
    ------
    LowRankError
        When there are NaN or infinite values in it.
    """
    if not all(value.isfinite().all() for value in tensors_in(output)):
        raise LowRankError(
            "the network's outputs are NaN or infinite on the calibration data; check that the "
            "inputs are finite and preprocessed as in training"
        )


def _pieces(batches: Iterable[Mapping[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    size = FIRST
    for batch in batches:
        start, count = 0, len(next(iter(batch.values())))
        while start < count:
            yield {name: value[start : start + size] for name, value in batch.items()}
            start, size = start + size, min(4 * size, IMAGES)


def _channels_last(part: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return images with their channels side by side in memory, which convolutions prefer."""
    layout = torch.channels_last
    return {k: v.contiguous(memory_format=layout) if v.ndim == 4 else v for k, v in part.items()}


class Probe(nn.Module):
    """A layer that computes the two parts of its output apart, and keeps the largest shares.

    Attributes
    ----------
    best
        Largest share so far of each input channel, c float32.
    usual_layout
        Whether outputs must lie in memory as those of the layer would.
    runs
        How often the layer has run.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self.usual_layout, self.runs = False, 0
        weight = layer.weight.detach()
        self.linear = weight.ndim == 2
        weight = weight.view(*weight.shape, *[1] * (4 - weight.ndim))
        self.bias = layer.bias
        self.size = tuple(weight.shape[2:])
        for name in layer.__constants__:  # networks read them, as MobileNet's padding does
            setattr(self, name, getattr(layer, name))
        self.stride = (1, 1) if self.linear else layer.stride
        self.dilation = (1, 1) if self.linear else layer.dilation
        self.around = [] if self.linear else layer._reversed_padding_repeated_twice
        self.mode = "zeros" if self.linear else layer.padding_mode
        parts = torch.cat([weight.clamp(min=0), (-weight).clamp(min=0)])
        # Each sign of each filter is computed in units of its largest weight.
        scale = parts.flatten(1).amax(1).clamp(min=1e-30)
        self.tiny = TINY / scale
        self.scale = scale.view(2, 1, -1, 1, 1)
        self.weight = parts / scale.view(-1, 1, 1, 1)
        # Which layout is the faster one of convolutions on CPUs with AVX-512.
        self.last = weight.shape[1] <= 128
        if self.last:
            self.weight = self.weight.contiguous(memory_format=torch.channels_last)
        self.by_channel = self.weight.flatten(2).transpose(0, 1).contiguous()  # c × 2f × k1k2
        self.largest = self.by_channel.amax(2)  # c × 2f
        self.level = self.largest.amax(1).clamp(min=1e-30)  # of each channel
        powers = (self.largest / self.level[:, None]).clamp(min=FLOOR).pow(POWER)  # c × 2f
        self.powers = powers.T.contiguous()
        self.best = weight.new_zeros(weight.shape[1])

    def forward(self, given: Tensor) -> Tensor:
        """Return what the layer returns, up to rounding."""
        self.runs += 1
        x = given.reshape(-1, given.shape[-1], 1, 1) if self.linear else given
        if x.numel() and x.amin() < 0:
            output = self._half(x.clamp(min=0)) - self._half((-x).clamp(min=0))
        else:
            output = self._half(x)
        if self.bias is not None:
            output = output + self.bias.view(1, -1, 1, 1)
        if self.usual_layout:
            output = output.contiguous()
        return output.view(*given.shape[:-1], output.shape[1]) if self.linear else output

    def _half(self, x: Tensor) -> Tensor:
        """Return the output without bias, n×f×h×w, for an input x ≥ 0, and look at the shares."""
        if any(self.around):
            mode = "constant" if self.mode == "zeros" else self.mode
            x = functional.pad(x, self.around, mode)
        if self.last:
            x = x.contiguous(memory_format=torch.channels_last)
        parts = functional.conv2d(x, self.weight, stride=self.stride, dilation=self.dilation)
        _Patches(self, x.permute(0, 2, 3, 1), parts.permute(0, 2, 3, 1)).search()
        positive, negative = parts.chunk(2, dim=1)
        return (positive * self.scale[0]).addcmul_(negative, self.scale[1], value=-1)

    @property
    def limits(self) -> Tensor:
        """Return what a bound must exceed to be looked at, for each channel."""
        return torch.where(self.best >= SATURATED, torch.inf, self.best * SAFE)


class _Patches:
    """The patches of some images and the sums that a layer computes from them, patch by patch.

    Parameters
    ----------
    probe
        The layer.
    x
        Its inputs with their padding, n×h'×w'×c ≥ 0.
    parts
        W⁺x and W⁻x, n×h×w×2f ≥ 0.
    """

    def __init__(self, probe: Probe, x: Tensor, parts: Tensor) -> None:
        self.probe, self.x = probe, x.contiguous()
        image, row, column = self._open(parts).nonzero(as_tuple=True)
        (down, right), (_, height, width, _) = probe.stride, x.shape
        # The first pixel of each patch, all images' in one row, and how far its others are.
        self.corners = (image * height + row * down) * width + column * right
        self.shifts = self._shifts()
        self.peaks = self._peaks()
        _, height, width, count = parts.shape
        rows = (image * height + row) * width + column
        sums = parts.reshape(-1, count).index_select(0, rows)
        self.sums = sums.masked_fill_(sums <= probe.tiny, torch.inf)

    def search(self) -> None:
        """Raise `probe.best` to the largest shares in these patches."""
        if not len(self.sums):
            return
        probe, bounds = self.probe, self._bounds()
        value, rows = bounds.max(0)
        channels = (value > probe.limits).nonzero()[:, 0]
        self._evaluate(rows[channels], channels)
        rows, channels = (bounds > probe.limits).nonzero(as_tuple=True)
        most = max(1, ENTRIES // self.sums.shape[1])
        for start in range(0, len(rows), most):
            self._evaluate(rows[start : start + most], channels[start : start + most])

    def _open(self, parts: Tensor) -> Tensor:
        """Return whether the largest factors of a share leave a patch open, n×h×w bool.

        A share is at most the channel's largest weight, times its largest input, over the smallest
        sum of any filter.
        """
        probe = self.probe
        gain = (self.x * (probe.level / probe.limits.clamp(min=1e-30))).amax(3)
        for dim, count in ((1, parts.shape[1]), (2, parts.shape[2])):
            step, gap = probe.stride[dim - 1], probe.dilation[dim - 1]
            shifts = range(0, probe.size[dim - 1] * gap, gap)
            spans = [gain.narrow(dim, at, (count - 1) * step + 1) for at in shifts]
            spans = [span[:, ::step] if dim == 1 else span[:, :, ::step] for span in spans]
            gain = reduce(torch.maximum, spans)
        return gain > parts.amin(3)  # 0 for sums of 0, which `_bounds` leaves out

    def _shifts(self) -> Tensor:
        """Return how far the pixels of a patch are from its first."""
        down, right = (
            torch.arange(size, device=self.x.device) * gap
            for size, gap in zip(self.probe.size, self.probe.dilation, strict=True)
        )
        return (down[:, None] * self.x.shape[2] + right).flatten()

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
        input of the channel in the patch, over the sum; the 16-norm over the filters is at least
        the maximum. Factors below `FLOOR` of the largest are raised to it.
        """
        probe = self.probe
        inverse = self.sums.reciprocal()
        top = inverse.amax(1, keepdim=True)
        inverse.mul_(top.clamp(min=1e-30).reciprocal_()).clamp_(min=FLOOR)
        bounds = inverse.square_().square_().square_().square_() @ probe.powers
        bounds.sqrt_().sqrt_().sqrt_().sqrt_().clamp_(min=FLOOR)
        return bounds.mul_(top).mul_(probe.level).mul_(self.peaks)

    def _evaluate(self, rows: Tensor, channels: Tensor) -> None:
        """Compute the shares of some channels in some patches, as far as they can be the best."""
        if not len(rows):
            return
        probe, sums = self.probe, self.sums.index_select(0, rows)
        most = probe.largest.index_select(0, channels).div_(sums)
        limit = probe.limits[channels] / self.peaks[rows, channels]
        where, filters = (most > limit[:, None]).nonzero(as_tuple=True)
        self._compute(rows[where], channels[where], filters, sums[where, filters])

    def _compute(self, rows: Tensor, channels: Tensor, filters: Tensor, sums: Tensor) -> None:
        """Compute the shares of single filters, channels and patches, and keep the best."""
        probe, count = self.probe, self.x.shape[3]
        first = self.corners[rows] * count + channels
        shifts = self.shifts * count
        flat = self.x.view(-1)
        step = max(1, ENTRIES // prod(probe.size))
        for at in range(0, len(rows), step):
            part = slice(at, at + step)
            inputs = flat[first[part, None] + shifts]
            weights = probe.by_channel[channels[part], filters[part]]
            shares = (weights * inputs).amax(1) / sums[part]
            probe.best.scatter_reduce_(0, channels[part], shares, "amax")
