"""The stored form of a transform code, and how its rows are decoded."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lowrank_bench.linalg.coding.coded import Coded, power
from lowrank_bench.linalg.coding.flat import logarithmic, unpack_basis, unpack_flat
from lowrank_bench.linalg.coding.packing import places, unpack, words
from lowrank_bench.linalg.coding.trellis import BEFORE, WINDOW, level_table

NIBBLE = 4  # bits that store a number of bits


@dataclass(frozen=True)
class Reading:
    """What decoding needs of each (band, direction), computed once from the stored tensors.

    Attributes
    ----------
    byte, shift
        Tensors G×r: where the field ends, as in `packing.places`.
    base
        Tensor G×r int32: where the levels for its number of bits begin.
    scales
        Tensor G×r float32; 0 where there are no bits.
    starts
        Tensor n int64: the byte where each row starts.
    labels
        Tensor n int64: the band of each row.
    strides
        Tensor G int64: the bytes of a row of each band.
    """

    byte: Tensor
    shift: Tensor
    base: Tensor
    scales: Tensor
    starts: Tensor
    labels: Tensor
    strides: Tensor


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
        """What decoding needs, computed at the first look-up; not stored."""
        n, _, r, label_bits, *_ = (int(value) for value in self.transform.tolist())
        labels = unpack_flat(self.labels, n, label_bits).long()
        bits = unpack(self.table, _fours(self.scales, r)).long().expand(-1, r)
        where = [places(row) for row in bits]
        strides = torch.tensor([place.stride for place in where], device=labels.device)
        lengths = strides[labels]
        scales = logarithmic(self.scales.expand(-1, r), self.ranges[0]) * power(self.exponent)
        return Reading(
            torch.stack([place.byte for place in where]) * (bits > 0),
            torch.stack([place.shift for place in where]).to(torch.int32),
            (bits << WINDOW).to(torch.int32),
            torch.where(bits > 0, scales, 0.0),
            lengths.cumsum(0) - lengths,
            labels,
            strides,
        )

    @cached_property
    def levels(self) -> Tensor:
        """The value of each window, for each number of bits in turn: 9·256 float32."""
        return level_table(bool(self.transform[5])).flatten().to(self.codes.device)

    @cached_property
    def directions(self) -> Tensor | None:
        """The basis, r×d float32, decoded once; None for the identity."""
        if self.basis is None or self.basis_bits is None or self.basis_scales is None:
            return None if self.basis is None else self.basis.float()
        r, width = self.rank, self.shape[1]
        bits = unpack_flat(self.basis_bits, r, NIBBLE).long()
        return unpack_basis(self.basis, bits, self.basis_scales, width)

    @cached_property
    def offset(self) -> Tensor | None:
        """The mean in the units of the rows, d float32, or None."""
        return None if self.mean is None else self.mean.float() * power(self.exponent)

    @cached_property
    def row_gains(self) -> Tensor | None:
        """The gain of each row, n float32."""
        if self.gains is None:
            return None
        packed = unpack_flat(self.gains, self.shape[0], int(self.transform[4]))
        return logarithmic(packed, self.ranges[1])

    def coefficients(self, ids: Tensor) -> Tensor:
        """Return Σ_c scale · level of the rows `ids` along each direction, m×r, without gains."""
        read = self.reading
        bands = read.labels[ids]
        reach = int(read.strides[bands].max()) if len(ids) else 0
        if reach == 0:
            return read.scales.new_zeros(len(ids), self.rank)
        # The bytes of a row, and perhaps some of the next, which no field of this row ends in.
        index = read.starts[ids].unsqueeze(1) + torch.arange(reach, device=ids.device)
        rows = self.codes[index.clamp_(max=len(self.codes) - 1)]
        fields = words(rows, BEFORE).gather(1, read.byte.index_select(0, bands))
        fields >>= read.shift.index_select(0, bands)
        fields &= (1 << WINDOW) - 1
        fields |= read.base.index_select(0, bands)
        values = self.levels.index_select(0, fields.flatten()).view(fields.shape)
        return values.mul_(read.scales.index_select(0, bands))

    def decode(self, ids: Tensor) -> Tensor:
        """Return the rows `ids`, m×d float32."""
        rows = self.coefficients(ids)
        if self.row_gains is not None:
            rows.mul_(self.row_gains[ids].unsqueeze(1))
        mean, basis = self.offset, self.directions
        if basis is None:
            return rows if mean is None else rows.add_(mean)
        return rows @ basis if mean is None else torch.addmm(mean, rows, basis)


NAMES = tuple(TransformCodes.__dataclass_fields__)


def _fours(scales: Tensor, directions: int) -> Tensor:
    """Return the widths of the fields of a table of bits: one, or one a direction."""
    return torch.full((1 if scales.shape[1] == 1 else directions,), NIBBLE)
