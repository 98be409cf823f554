"""Integers of 0 to 8 bits packed without gaps into bytes.

The first bit of a row is the highest of its first byte, and every row starts at a byte. A field of
at most eight bits lies in at most two neighbouring bytes: to read one, take the 16-bit word that
ends with the byte of its last bit, shift and mask.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lowrank_bench.errors import LowRankError

MOST = 8  # bits of the widest field
CHUNK = 1 << 24  # bits that are held one a byte at a time


@dataclass(frozen=True)
class Places:
    """Where the fields of a row end.

    Attributes
    ----------
    byte
        Tensor of m int64: the byte in which each field ends, counted from 1, as if one byte of
        zeros stood before the row.
    shift
        Tensor of m int32: how far the word that ends there is shifted down.
    mask
        Tensor of m int32: the bits of the field, 2^b − 1.
    stride
        Bytes of a row.
    """

    byte: Tensor
    shift: Tensor
    mask: Tensor
    stride: int


def stride_of(widths: Tensor) -> int:
    """Return the bytes of a row whose fields have these widths."""
    return (int(widths.sum()) + 7) // 8


def places(widths: Tensor) -> Places:
    """Return where fields of the given widths (m integers, 0 to 8) end.

    Raises
    ------
    LowRankError
        If a width is not between 0 and 8.
    """
    wide = widths.long()
    if wide.numel() and not 0 <= int(wide.min()) <= int(wide.max()) <= MOST:
        raise LowRankError(f"fields have 0 to {MOST} bits, not {wide.tolist()[:8]}")
    last = (wide.cumsum(0) - 1).clamp(min=0)  # the last bit; a field of no bits reads anything
    shift = (7 - last % 8).int()
    return Places(last // 8 + 1, shift, ((1 << wide) - 1).int(), stride_of(wide))


def words(packed: Tensor, before: int = 0) -> Tensor:
    """Return the 16-bit word that ends with each byte, k×(s + 1) int32; entry 0 is `before`."""
    wide = torch.nn.functional.pad(packed, (1, 0), value=before).int()
    wide[:, 1:] |= wide[:, :-1] << 8
    return wide


def pack(codes: Tensor, widths: Tensor) -> Tensor:
    """Return codes packed row by row.

    Parameters
    ----------
    codes
        Tensor n×m of integers; column c is less than 2^`widths`[c].
    widths
        Tensor of m integers, 0 to 8: the bits of each column.

    Returns
    -------
    Tensor
        n×s uint8 with s = ⌈Σ widths / 8⌉; unused bits at the end of a row are zero.

    Raises
    ------
    LowRankError
        If a width is not between 0 and 8, or a code does not fit.
    """
    mask = places(widths).mask.to(codes.device)
    wide = widths.long().to(codes.device)
    fields = torch.repeat_interleave(torch.arange(len(wide), device=codes.device), wide)
    ends = wide.cumsum(0)
    shifts = (ends[fields] - 1 - torch.arange(len(fields), device=codes.device)).to(torch.uint8)
    packed = torch.empty(len(codes), stride_of(wide), dtype=torch.uint8, device=codes.device)
    step = max(1, CHUNK // max(1, len(fields)))
    for start in range(0, len(codes), step):
        part = codes[start : start + step]
        if bool((part < 0).any()) or bool((part > mask).any()):
            raise LowRankError("a code does not fit into its bits; widths are too small")
        bits = (part.to(torch.uint8)[:, fields] >> shifts) & 1
        rows = np.packbits(bits.cpu().numpy(), axis=1)
        packed[start : start + step] = torch.from_numpy(rows).to(packed)
    return packed


def unpack(packed: Tensor, widths: Tensor) -> Tensor:
    """Return the codes of packed rows, n×m uint8: the inverse of `pack`.

    Raises
    ------
    LowRankError
        If the rows have another length than these widths need.
    """
    where = places(widths)
    if packed.shape[1] != where.stride:
        raise LowRankError(
            f"rows of {packed.shape[1]} bytes do not hold fields of {where.stride} bytes in all"
        )
    device = packed.device
    fields = words(packed).index_select(1, where.byte.clamp(max=where.stride).to(device))
    fields >>= where.shift.to(device)
    return (fields & where.mask.to(device)).to(torch.uint8)
