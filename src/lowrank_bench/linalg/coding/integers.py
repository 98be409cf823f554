"""Nonnegative integers of up to 16 bits in the fewest bytes, any of which can be read alone."""

import torch
from torch import Tensor

from lowrank_bench.linalg.coding.flat import pack_flat

BYTE = 8


def bits_of(largest: int) -> int:
    """Return the bits that hold 0 to `largest`; none where only zero occurs."""
    return max(0, largest).bit_length()


def integer_bytes(count: int, bits: int) -> int:
    """Return the bytes of `pack_integers`."""
    low = min(bits, BYTE)
    return sum((count * part + 7) // 8 for part in (low, bits - low))


def pack_integers(values: Tensor, bits: int) -> Tensor:
    """Return integers below 2^bits as bytes: their low eight bits in sequence, then the others."""
    low = pack_flat((values & 255).to(torch.uint8), min(bits, BYTE))
    high = pack_flat((values >> BYTE).to(torch.uint8), bits - BYTE) if bits > BYTE else low[:0]
    return torch.cat([low, high])


def take_integers(packed: Tensor, count: int, bits: int, places: Tensor) -> Tensor:
    """Return those of the `count` packed integers that stand at `places`, int64."""
    low = min(bits, BYTE)
    cut = (count * low + 7) // 8
    values = _take(packed[:cut], low, places)
    return values if bits == low else values | (_take(packed[cut:], bits - low, places) << BYTE)


def all_integers(packed: Tensor, count: int, bits: int) -> Tensor:
    """Return all packed integers, int64."""
    return take_integers(packed, count, bits, torch.arange(count, device=packed.device))


def _take(packed: Tensor, bits: int, places: Tensor) -> Tensor:
    """Return fields of at most eight bits from a sequence of them."""
    if bits == 0:
        return torch.zeros_like(places)
    last = places * bits + bits - 1  # the last bit of each field
    byte = last // 8
    # A field of eight bits lies in at most two bytes; what stands before the first is masked away.
    word = packed[byte].long() | (packed[(byte - 1).clamp(min=0)].long() << 8)
    return (word >> (7 - last % 8)) & ((1 << bits) - 1)
