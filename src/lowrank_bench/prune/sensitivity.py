"""Empirical sensitivity: the largest share that a channel ever has in what a layer computes.

Every weight has one sign, so the share of weight w_it times input a_tp in output (i, p) of image x
is |w_it| a_tp / z_ip with the part z of the output that the weights of that sign make: one number
for each multiplication of the forward. Here most of them are never formed. The p-norm over the
filters i bounds their largest share from above and costs one small product of matrices; what this
bound cannot exclude is computed.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lowrank_bench.errors import LowRankError
from lowrank_bench.measure.timing import fixed_threads
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
IMAGES = 24  # at a time, so that a layer's numbers stay in the cache
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
    parts = (part for batch in inputs for part in _pieces(batch))
    if half:
        parts = ({k: v.float() if v.dtype in HALF else v for k, v in p.items()} for p in parts)
    # Threads share out long sums, and a last bit can decide which channels are drawn.
    with fixed_threads(1):
        _run(probed, list(probes.values()), parts)
    check_seen({name: probe.runs for name, probe in probes.items()})
    best = {name: probe.best.cpu() for name, probe in probes.items()}
    return {name: torch.where(values >= SATURATED, 1, values) for name, values in best.items()}


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


def _pieces(batch: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    for start in range(0, len(next(iter(batch.values()))), IMAGES):
        yield {name: value[start : start + IMAGES] for name, value in batch.items()}


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
        self.weight = torch.cat([weight.clamp(min=0), (-weight).clamp(min=0)])
        # Which layout is the faster one of convolutions on CPUs with AVX-512.
        self.last = weight.shape[1] <= 128
        if self.last:
            self.weight = self.weight.contiguous(memory_format=torch.channels_last)
        self.by_channel = self.weight.flatten(2).transpose(0, 1).contiguous()  # c × 2f × k1k2
        self.largest = self.by_channel.amax(2)  # c × 2f
        self.scale = self.largest.amax(0).clamp(min=1e-30)  # of each filter
        share = self.largest / self.scale
        self.level = share.amax(1).clamp(min=1e-30)  # of each channel
        self.powers = (share / self.level[:, None]).clamp(min=FLOOR).pow(POWER).T.contiguous()
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
        return output.flatten(1).view(*given.shape[:-1], -1) if self.linear else output

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
        return positive - negative

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
        self.images, self.height, self.width, _ = parts.shape
        parts = parts.reshape(-1, parts.shape[-1])
        peaks = self._peaks().reshape(len(parts), -1)
        self.rows = self._open(parts, peaks)
        self.peaks = peaks.index_select(0, self.rows)
        self.sums = functional.threshold(parts.index_select(0, self.rows), TINY, torch.inf)

    def search(self) -> None:
        """Raise `probe.best` to the largest shares in these patches."""
        if not len(self.rows):
            return
        probe, bounds = self.probe, self._bounds()
        if not probe.best.any():
            self._start(bounds)
        rows, channels = (bounds > probe.limits).nonzero(as_tuple=True)
        over = bounds[rows, channels] / probe.limits[channels]
        order = over.argsort(descending=True)
        rows, channels, over = rows[order], channels[order], bounds[rows, channels][order]
        most = max(1, ENTRIES // self.sums.shape[1])
        start, size = 0, min(most, 512)
        while start < len(rows):
            block = slice(start, start + size)
            open_ = over[block] > probe.limits[channels[block]]  # by now some are excluded
            self._evaluate(rows[block][open_], channels[block][open_])
            start, size = start + size, min(2 * size, most)

    def _open(self, parts: Tensor, peaks: Tensor) -> Tensor:
        """Return the patches in which the largest factors of a share leave it open, int64.

        A share is at most the largest weight of any filter over its sum, both in units of the
        filter's largest weight, times the largest input.
        """
        probe = self.probe
        if not probe.best.any():
            return torch.arange(len(parts), device=parts.device)
        top = (probe.scale / parts).amax(1)  # infinite for sums of 0, which `_bounds` leaves out
        gain = (peaks * (probe.level / probe.limits.clamp(min=1e-30))).amax(1)
        return (top * gain > 1).nonzero()[:, 0]

    def _start(self, bounds: Tensor) -> None:
        """Compute the most promising share of each channel and image: a first idea of the best."""
        channels = bounds.shape[1]
        of_image = bounds.view(self.images, -1, channels).argmax(1)
        where = {"device": bounds.device}
        first = torch.arange(self.images, **where)[:, None] * self.height * self.width
        every = torch.arange(channels, **where).repeat(self.images)
        self._evaluate((of_image + first).flatten(), every, True)

    def _peaks(self) -> Tensor:
        """Return the largest input in each patch, n×h×w×c."""
        peaks = self.x
        for dim, count in ((1, self.height), (2, self.width)):
            step, gap = self.probe.stride[dim - 1], self.probe.dilation[dim - 1]
            shifts = range(0, self.probe.size[dim - 1] * gap, gap)
            spans = [peaks.narrow(dim, at, (count - 1) * step + 1) for at in shifts]
            spans = [span[:, ::step] if dim == 1 else span[:, :, ::step] for span in spans]
            peaks = spans[0]
            for span in spans[1:]:
                peaks = torch.maximum(peaks, span)
        return peaks

    def _bounds(self) -> Tensor:
        """Return an upper bound on the shares of each channel in each patch, rows×c.

        A share is at most the largest weight of the filter for the channel, times the largest
        input of the channel in the patch, over the sum; the 16-norm over the filters is at least
        the maximum. Factors below `FLOOR` of the largest are raised to it.
        """
        probe = self.probe
        inverse = probe.scale / self.sums
        top = inverse.amax(1, keepdim=True)
        inverse.mul_(top.clamp(min=1e-30).reciprocal_()).clamp_(min=FLOOR)
        bounds = inverse.square_().square_().square_().square_() @ probe.powers
        bounds.sqrt_().sqrt_().sqrt_().sqrt_().clamp_(min=FLOOR)
        return bounds.mul_(top).mul_(probe.level).mul_(self.peaks)

    def _evaluate(self, rows: Tensor, channels: Tensor, first: bool = False) -> None:
        """Compute the shares of some channels in some patches, as far as they can be the best.

        With `first` only that of the filter with the largest bound.
        """
        if not len(rows):
            return
        probe, sums = self.probe, self.sums.index_select(0, rows)
        most = probe.largest.index_select(0, channels).div_(sums)
        value, filters = most.max(1)
        self._compute(rows, channels, filters, sums.gather(1, filters[:, None])[:, 0])
        if first:
            return
        limit = probe.limits[channels] / self.peaks[rows, channels]
        left = (value > limit).nonzero()[:, 0]
        where, filters = (most[left] > limit[left, None]).nonzero(as_tuple=True)
        where = left[where]
        self._compute(rows[where], channels[where], filters, sums[where, filters])

    def _compute(self, rows: Tensor, channels: Tensor, filters: Tensor, sums: Tensor) -> None:
        """Compute the shares of single filters, channels and patches, and keep the best."""
        probe, (_, height, width, count) = self.probe, self.x.shape
        rows = self.rows[rows]
        column, row = rows % self.width, rows // self.width % self.height
        image = rows // (self.width * self.height)
        first = (image * height + row * probe.stride[0]) * width + column * probe.stride[1]
        down, right = (
            torch.arange(size, device=rows.device) * gap
            for size, gap in zip(probe.size, probe.dilation, strict=True)
        )
        shift = (down[:, None] * width + right).flatten()
        flat = self.x.view(-1)
        step = max(1, ENTRIES // prod(probe.size))
        for at in range(0, len(rows), step):
            part = slice(at, at + step)
            inputs = flat[(first[part, None] + shift) * count + channels[part, None]]
            weights = probe.by_channel[channels[part], filters[part]]
            shares = (weights * inputs).amax(1) / sums[part]
            probe.best.scatter_reduce_(0, channels[part], shares, "amax")
