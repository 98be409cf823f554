"""Neighbouring fields read at once, from a table of all values that they can have together.

To read fields one by one costs several operations a field. Fields of few bits are read in groups
of two, four or eight: the bits that decide the values of a group number a row of a table.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

SIZES = (4, 2, 1)  # fields of a group
LIMIT = 1 << 17  # values of a table, of which the most used part shall stay in the cache
WIDE = {2: torch.float64, 4: torch.complex128}  # as many float32 in one element
BYTE = 8


@dataclass(frozen=True)
class Groups:
    """How rows of packed fields are read.

    Attributes
    ----------
    width
        r, the fields of a row.
    places
        Tensor 4×G×q int32 for G layouts and q groups: the first byte of a word that ends with the
        last bits of each group, or later; how far the word is shifted down; the mask of its bits;
        and the row of `values` where its table begins. None if every group is a byte.
    values
        Tensor N×k float32: the values of the k fields of a group; those of the last group of a row
        may reach beyond r.
    span
        Bytes of a word, 1 to 3.
    """

    width: int
    places: Tensor | None
    values: Tensor
    span: int = 1

    @cached_property
    def parts(self) -> Tensor:
        """The numbers 0 to 3, one a row."""
        assert self.places is not None
        return torch.arange(4, dtype=torch.int32, device=self.places.device).unsqueeze(1)

    def read(self, rows: Tensor, layouts: Tensor | None = None) -> Tensor:
        """Return the values of packed rows, m×r float32.

        Parameters
        ----------
        rows
            Tensor m×s uint8; what follows a row in its s bytes is not looked at.
        layouts
            Tensor of m integers: the layout of each row; None if there is one.
        """
        if not len(rows):
            return self.values.new_zeros(0, self.width)
        if self.places is None:
            index = rows.flatten().int()
        else:
            if rows.shape[1] < self.span:
                rows = functional.pad(rows, (0, self.span - rows.shape[1]))
            index = self._numbers(rows, layouts)
        return take(self.values, index).view(len(rows), -1)[:, : self.width]

    def _numbers(self, rows: Tensor, layouts: Tensor | None) -> Tensor:
        """Return the row of `values` of each group, m·q int32."""
        assert self.places is not None
        count, length = rows.shape
        if layouts is None:
            places = self.places.expand(-1, count, -1)
        else:  # four parts, each without gaps
            each = layouts + self.places.shape[1] * self.parts
            places = self.places.flatten(0, 1).index_select(0, each.flatten())
        byte, shift, mask, base = places.view(4, count, -1).unbind()
        starts = torch.arange(
            0, count * length, length, dtype=torch.int32, device=rows.device
        ).unsqueeze(1)
        words = _words(rows.flatten().int(), self.span)
        numbers = words.index_select(0, (byte + starts).view(-1)).view(count, -1)
        numbers >>= shift
        numbers &= mask
        numbers += base
        return numbers.view(-1)

    def to(self, device: torch.device) -> "Groups":
        """Return a copy on a device."""
        places = None if self.places is None else self.places.to(device)
        return replace(self, places=places, values=self.values.to(device))


def _words(text: Tensor, span: int) -> Tensor:
    """Return the integers that `span` neighbouring bytes (int32) are, from each byte on."""
    if span == 1:
        return text
    pairs = torch.add(text[1:], text[:-1], alpha=1 << BYTE)
    return pairs if span == 2 else torch.add(pairs[1:], text[:-2], alpha=1 << 2 * BYTE)


def take(table: Tensor, index: Tensor) -> Tensor:
    """Return the rows of a table N×k float32 at `index` (m integers), m×k."""
    wide = WIDE.get(table.shape[1])
    if wide is None or table.device.type != "cpu" or table.requires_grad:
        column = table.view(-1) if table.shape[1] == 1 else table
        return column.index_select(0, index).view(len(index), table.shape[1])
    # One element instead of a short row: three times as fast.
    taken = table.view(wide).view(-1).index_select(0, index)
    return taken.view(torch.float32).view(len(index), table.shape[1])


def grouped(bits: Tensor, levels: Tensor, history: int = 0, before: int = 0) -> Groups:
    """Return how to read rows of fields, in the largest groups whose tables are not too large.

    Parameters
    ----------
    bits
        Tensor G×r of integers, 0 to 8: the bits of each field, for G layouts.
    levels
        Tensor 9×256 float32: the value of a field of b bits by the last eight bits of the row.
    history
        Of these, the bits that matter: a field's own, and at least so many.
    before
        The byte that stands before each row.
    """
    for size in SIZES:
        fields = functional.pad(bits.long(), (0, -bits.shape[1] % size)).view(len(bits), -1, size)
        end = fields.sum(2).cumsum(1)  # bits of the row up to the end of each group
        # The bits of a group that follow each of its fields, and those that decide the group.
        after = fields.flip(2).cumsum(2).flip(2) - fields
        needed = torch.where(fields > 0, fields.clamp(min=history) + after, 0).amax(2)
        length = torch.minimum(needed, end).unsqueeze(2)  # near the start, some are those before
        kinds, which = torch.unique(
            torch.cat([fields, length], dim=2).flatten(0, 1), dim=0, return_inverse=True
        )
        entries = 1 << kinds[:, -1]
        if size == 1 or int(entries.sum()) * size <= LIMIT:
            break
    span = -(-(int(length.max()) + BYTE - 1) // BYTE)
    byte = (end - 1).clamp(min=0) // BYTE + 1 - span  # a word that ends with the group's last byte
    shift = -end % BYTE - BYTE * byte.clamp(max=0)  # or, near the start of a row, later
    base = (entries.cumsum(0) - entries)[which].view(end.shape)
    mask = (entries - 1)[which].view(end.shape)
    places = torch.stack([byte.clamp(min=0), shift, mask, base]).int()
    return Groups(bits.shape[1], places, _values(kinds[:, :-1], kinds[:, -1], levels, before), span)


def even(width: int, bits: int, levels: Tensor) -> Groups:
    """Return how to read rows of `width` fields of b bits each, 1 to 8."""
    if BYTE % bits:
        return grouped(torch.full((1, width), bits), levels)
    fields = torch.full((1, BYTE // bits), bits)
    return Groups(width, None, _values(fields, torch.tensor([BYTE]), levels, 0))


def _values(fields: Tensor, length: Tensor, levels: Tensor, before: int) -> Tensor:
    """Return the values of each pattern of fields for all numbers of `length` bits, in turn."""
    entries = 1 << length
    which = torch.repeat_interleave(torch.arange(len(fields)), entries)
    number = torch.arange(len(which)) - (entries.cumsum(0) - entries)[which]
    number += (before << length)[which]
    after = fields.flip(1).cumsum(1).flip(1) - fields
    window = (number.unsqueeze(1) >> after[which]) & ((1 << BYTE) - 1)
    return levels[fields[which], window].contiguous()
