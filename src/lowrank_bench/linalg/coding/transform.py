"""The stored form of a transform code, and how its rows are decoded."""

from dataclasses import dataclass, fields
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from lowrank_bench.linalg.coding.coded import Coded, power
from lowrank_bench.linalg.coding.flat import basis_levels, logarithmic, unpack_flat
from lowrank_bench.linalg.coding.groups import Groups, grouped
from lowrank_bench.linalg.coding.packing import unpack
from lowrank_bench.linalg.coding.trellis import BEFORE, HISTORY, level_table

NIBBLE = 4  # bits that store a number of bits


@dataclass(frozen=True)
class Reading:
    """What decoding needs and the integers alone decide, computed once.

    Attributes
    ----------
    groups
        How the fields of a row of each band are read.
    live
        Tensor G×r or G×1 bool: which (band, direction) have bits.
    starts
        Tensor n of integers: the byte where each row starts.
    labels
        Tensor n of integers: the band of each row.
    strides
        Tensor G int64: the bytes of a row of each band.
    longest
        The largest stride, or the bytes of a word where they are more.
    whole
        The first so many rows have `longest` bytes from their start, with those of later rows.
    """

    groups: Groups
    live: Tensor
    starts: Tensor
    labels: Tensor
    strides: Tensor
    longest: int
    whole: int


@dataclass(frozen=True)
class TransformCodes(Coded, mark="transform"):
    """Row i is mean + gain_i · Σ_c scale_gc · level(code_ic) · basis_c, where g is its band.

    Attributes
    ----------
    transform
        Tensor int32: n, d, r directions, bits of a label, bits of a gain (0: none),
        whether a trellis was used, and a power of two for all rows.
    labels
        Tensor uint8: the band of each row, packed.
    table
        Tensor G×⌈r/2⌉ uint8: bits of each (band, direction), four bits each. One column if all
        directions of a band have the same.
    scales
        Tensor G×r or G×1 uint8: logarithms of the scales, on the grid of `ranges`.
    ranges
        Tensor 2×2 float16: base-2 logarithm of the least scale and gain, and their steps.
    codes
        Tensor uint8: packed codes of all rows, in the order of the rows.
    gains
        Tensor uint8: packed logarithms of the gains, or None.
    basis
        Tensor r×d float16, or uint8: packed codes of its rows; None for the identity.
    basis_bits, basis_scales
        The bits (packed) and scales (float16) of the rows of a packed basis.
    mean
        Tensor d float16, or None.
    """

    transform: Tensor
    labels: Tensor
    table: Tensor
    scales: Tensor
    ranges: Tensor
    codes: Tensor
    gains: Tensor | None = None
    basis: Tensor | None = None
    basis_bits: Tensor | None = None
    basis_scales: Tensor | None = None
    mean: Tensor | None = None

    derived: ClassVar[tuple[str, ...]] = ("reading", "gain_codes", "basis_levels")

    @property
    def shape(self) -> tuple[int, int]:
        """Return (n, d)."""
        return int(self.transform[0]), int(self.transform[1])

    @property
    def rank(self) -> int:
        """Return the number of directions."""
        return int(self.transform[2])

    def tensors(self) -> dict[str, Tensor]:
        """Return all stored tensors by name."""
        return {name: value for name in NAMES if (value := getattr(self, name)) is not None}

    @cached_property
    def reading(self) -> Reading:
        """What decoding needs of the integers, computed at the first look-up; not stored."""
        n, _, r, label_bits, *_ = (int(value) for value in self.transform.tolist())
        device, trellis = self.codes.device, bool(self.transform[5])
        table = unpack(self.table, _fours(self.scales, r)).long().cpu()
        bits = table.expand(-1, r)
        strides = -(-bits.sum(1) // 8)
        labels = unpack_flat(self.labels, n, label_bits).int()
        lengths = strides.to(device).index_select(0, labels)
        starts = lengths.cumsum(0) - lengths
        groups = grouped(bits, level_table(trellis), HISTORY if trellis else 0, BEFORE)
        longest = max(int(strides.max()), groups.span)
        return Reading(
            groups.to(device),
            (table > 0).to(device),
            starts.to(torch.int32 if self.codes.numel() < 1 << 31 else torch.int64),
            labels,
            strides.to(device),
            longest,
            int((starts <= self.codes.numel() - longest).sum()),
        )

    @cached_property
    def band_scales(self) -> Tensor:
        """The scale of each (band, direction), G×r or G×1 float32; 0 where there are no bits."""
        scales = logarithmic(self.scales, self.ranges[0]) * power(self.exponent)
        return torch.where(self.reading.live, scales, 0.0)

    @cached_property
    def basis_levels(self) -> Tensor | None:
        """The levels of a packed basis in units of its scales, r×d float32; None without one."""
        if self.basis is None or self.basis_bits is None:
            return None
        bits = unpack_flat(self.basis_bits, self.rank, NIBBLE).long()
        return basis_levels(self.basis, bits, self.shape[1])

    @cached_property
    def directions(self) -> Tensor | None:
        """The basis, r×d float32, decoded once; None for the identity."""
        levels, scales = self.basis_levels, self.basis_scales
        if levels is None or scales is None:
            return None if self.basis is None else self.basis.float()
        if not scales.requires_grad:
            del vars(self)["basis_levels"]  # only training needs both
        return levels * scales.float().unsqueeze(1)

    @cached_property
    def offset(self) -> Tensor | None:
        """The mean in the units of the rows, d float32, or None."""
        return None if self.mean is None else self.mean.float() * power(self.exponent)

    @cached_property
    def gain_codes(self) -> Tensor | None:
        """The codes of the gains, n uint8."""
        if self.gains is None:
            return None
        return unpack_flat(self.gains, self.shape[0], int(self.transform[4]))

    @cached_property
    def gain_levels(self) -> Tensor:
        """The gain of each code, float32."""
        codes = torch.arange(1 << int(self.transform[4]), device=self.ranges.device)
        return logarithmic(codes, self.ranges[1])

    def coefficients(self, ids: Tensor) -> Tensor:
        """Return Σ_c scale · level of the rows `ids` along each direction, m×r, without gains."""
        read = self.reading
        bands = read.labels.index_select(0, ids)
        if not len(self.codes) or not len(ids):
            return self.band_scales.new_zeros(len(ids), self.rank)
        rows = self._bytes(read.starts.index_select(0, ids), int(ids.max()) < read.whole)
        values = read.groups.read(rows, bands)
        return values.mul_(self.band_scales.index_select(0, bands))

    def _bytes(self, starts: Tensor, inside: bool) -> Tensor:
        """Return the bytes from each start on, m×longest: a row, and perhaps some of the next."""
        reach, size = self.reading.longest, self.codes.numel()
        if inside:  # one copy a row, out of windows that overlap
            windows = self.codes.as_strided((size - reach + 1, reach), (1, 1))
            return windows.index_select(0, starts)
        index = starts.unsqueeze(1) + torch.arange(reach, device=starts.device)
        return self.codes[index.clamp_(max=size - 1)]

    def decode(self, ids: Tensor) -> Tensor:
        """Return the rows `ids`, m×d float32."""
        rows = self.coefficients(ids)
        if self.gain_codes is not None:
            gains = self.gain_levels.index_select(0, self.gain_codes.index_select(0, ids).int())
            rows.mul_(gains.unsqueeze(1))
        mean, basis = self.offset, self.directions
        if basis is None:
            return rows if mean is None else rows.add_(mean)
        return rows @ basis if mean is None else torch.addmm(mean, rows, basis)


NAMES = tuple(field.name for field in fields(TransformCodes))


def _fours(scales: Tensor, directions: int) -> Tensor:
    """Return the widths of the fields of a table of bits: one, or one a direction."""
    return torch.full((1 if scales.shape[1] == 1 else directions,), NIBBLE)
