"""Rounding to a few bits: one scale for a row, or for a group of columns of a row.

The grid is symmetric and has 2^b levels, s·(j + ½ − 2^(b−1)) for j = 0, …, 2^b − 1: one bit is
±s/2, two bits are ±s/2 and ±3s/2. Zero is no level; a row of zeros has the scale zero.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.coding.coded import Coded, exponent_of, finite_unit, power
from lowrank_bench.linalg.coding.groups import Groups, even
from lowrank_bench.linalg.coding.packing import MOST, pack

Scale = Literal["absmax", "least_squares"]
CHUNK = 1 << 21  # entries that are rounded at a time
SEARCH = 10  # clipping points that are tried
REFINE = 3  # steps that alternate between codes and scale
SMALLEST = 2.0**-24  # of half precision


@dataclass(frozen=True)
class RoundedRows(Coded, mark="rounded"):
    """A matrix whose entries are rounded to b bits with a scale for each group of g columns.

    Attributes
    ----------
    codes
        Tensor n×⌈d·b/8⌉ uint8: packed codes.
    scales
        Tensor n×⌈d/g⌉ float16.
    rounded
        Tensor of four int32: b, g, d and a power of two for all rows.
    """

    codes: Tensor
    scales: Tensor
    rounded: Tensor

    derived: ClassVar[tuple[str, ...]] = ("sizes", "fields")

    @property
    def shape(self) -> tuple[int, int]:
        """Return (n, d)."""
        return len(self.codes), int(self.rounded[2])

    @cached_property
    def sizes(self) -> tuple[int, int, int, int]:
        """The integers of `rounded`."""
        bits, group, width, exponent = self.rounded.tolist()
        return bits, group, width, exponent

    @cached_property
    def fields(self) -> Groups:
        """How the codes of a row are read."""
        bits, _, width, _ = self.sizes
        return even(width, bits, symmetric(bits)).to(self.codes.device)

    def decode(self, ids: Tensor) -> Tensor:
        """Return the rows `ids`, m×d float32."""
        _, group, width, exponent = self.sizes
        values = self.fields.read(self.codes.index_select(0, ids))
        scales = self.scales.index_select(0, ids).float() * power(exponent)
        if scales.shape[1] == 1:
            return values.mul_(scales)
        if width % group == 0:
            grouped = values.view(len(ids), -1, group)
            return grouped.mul_(scales.unsqueeze(2)).view(values.shape)
        return values.mul_(scales.repeat_interleave(group, dim=1)[:, :width])

    def tensors(self) -> dict[str, Tensor]:
        """Return `codes`, `scales` and `rounded`."""
        return {"codes": self.codes, "scales": self.scales, "rounded": self.rounded}


def symmetric(bits: int) -> Tensor:
    """Return the levels j + ½ − 2^(b−1) of the last b bits of a byte, 9×256, for this b alone."""
    levels = torch.zeros(MOST + 1, 1 << MOST)
    levels[bits] = torch.arange(1 << MOST) % (1 << bits) - (2**bits - 1) / 2
    return levels


def round_to_nearest(
    matrix: Tensor, bits: int, group: int | None = None, scale: Scale = "least_squares"
) -> RoundedRows:
    """Return the matrix rounded to b bits.

    Parameters
    ----------
    matrix
        Tensor A, n×d, finite.
    bits
        b, 1 to 8.
    group
        Columns that share a scale; by default a whole row.
    scale
        `absmax`: the largest entry is the last level. `least_squares`: the scale of least squared
        error among clipping points and alternations of codes and scale; never worse than absmax.
        Both minimize row by row, so that weights of rows change nothing.

    Raises
    ------
    LowRankError
        If `bits` or `group` is out of range, or an entry is not finite.
    """
    width = matrix.shape[1]
    group = width if group is None else group
    if not 1 <= bits <= MOST:
        raise LowRankError(f"bits must be 1 to {MOST}, not {bits}")
    if group < 1:
        raise LowRankError(f"a group has at least one column, not {group}; set group >= 1")
    group = max(1, min(group, width))
    unit = finite_unit(matrix)
    codes, scales = [], []
    for part in _chunks(matrix, CHUNK // max(1, width)):
        padded = torch.nn.functional.pad(part.double() / unit, (0, -width % group))
        grouped = padded.view(len(part), -1, group).float()
        code, size = _round(grouped, bits, scale, width)
        codes.append(pack(code.flatten(1)[:, :width], torch.full((width,), bits)))
        scales.append(size)
    sizes = torch.tensor([bits, group, width, exponent_of(unit)], dtype=torch.int32)
    return RoundedRows(torch.cat(codes), torch.cat(scales), sizes.to(matrix.device))


def _chunks(matrix: Tensor, size: int) -> Iterator[Tensor]:
    """Yield blocks of rows; one empty block for an empty matrix."""
    yield from matrix.split(max(1, size)) if len(matrix) else [matrix]


def _round(rows: Tensor, bits: int, scale: Scale, width: int) -> tuple[Tensor, Tensor]:
    """Return codes n×G×g and half-precision scales n×G of grouped rows n×G×g."""
    half = (2**bits - 1) / 2
    top = rows.abs().amax(2)
    size = half_scales(top / half)
    if scale == "least_squares":
        real = torch.ones(rows.shape[1:]).flatten().to(rows)
        real[width:] = 0.0  # the last group may be shorter: padding has no say
        real = real.view(rows.shape[1:])
        least = _error(rows, size, bits, real)
        for turn in range(SEARCH + REFINE):
            if turn < SEARCH:  # clip at a part of the largest entry
                trial = half_scales(top * (1 - turn / SEARCH * (0.85 if bits < 4 else 0.6)) / half)
            else:  # the best scale for the codes of the best so far
                levels = nearest_levels(rows, size, bits) * real
                square = levels.square().sum(2)
                trial = half_scales((rows * levels).sum(2) / square.clamp(min=1e-30))
            error = _error(rows, trial, bits, real)
            better = error < least
            size, least = torch.where(better, trial, size), torch.where(better, error, least)
    codes = nearest_levels(rows, size, bits) + half
    return codes.round().to(torch.uint8), size.half()


def half_scales(values: Tensor) -> Tensor:
    """Return values rounded to half precision, and positive ones kept positive."""
    return torch.where(values > 0, values.clamp(min=SMALLEST), 0.0).half().float()


def nearest_levels(rows: Tensor, size: Tensor, bits: int) -> Tensor:
    """Return the nearest level of each entry, in units of its scale."""
    half = (2**bits - 1) / 2
    ratio = rows / torch.where(size > 0, size, 1.0).unsqueeze(2)
    return ratio.add_(half).round_().clamp_(0, 2 * half).sub_(half)


def _error(rows: Tensor, size: Tensor, bits: int, real: Tensor) -> Tensor:
    left = nearest_levels(rows, size, bits).mul_(size.unsqueeze(2)).sub_(rows).mul_(real)
    return left.square_().sum(2)
