"""Small things in few bits: labels, numbers on a logarithmic grid, the vectors of a basis."""

import torch
from torch import Tensor

from lowrank_bench.linalg.coding.coded import power
from lowrank_bench.linalg.coding.packing import pack, unpack
from lowrank_bench.linalg.coding.rounding import round_to_nearest

OCTAVES = 24  # numbers smaller than the largest by more are stored as if they were not


def logarithmic(codes: Tensor, grid: Tensor) -> Tensor:
    """Return 2^(low + step·code), float32, for a grid of (low, step)."""
    wide: Tensor = grid.double()
    values: Tensor = (wide[0] + wide[1] * codes.double()).exp2()
    return values.float()


def to_logarithmic(values: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return the nearest codes of positive values on a logarithmic grid, and the grid (2 float16).

    Values of zero become the least code; callers give them no bits.
    """
    positive = values > 0
    logs = torch.where(positive, values, 1.0).double().log2()
    if not bool(positive.any()):
        return torch.zeros_like(values, dtype=torch.uint8), torch.zeros(2, dtype=torch.float16)
    low = max(float(logs[positive].min()), float(logs[positive].max()) - OCTAVES)
    top = (1 << bits) - 1
    grid = torch.tensor([low, max(float(logs[positive].max()) - low, 1e-3) / top]).half()
    codes = ((logs - float(grid[0])) / float(grid[1])).round().clamp(0, top)
    return torch.where(positive, codes, 0).to(torch.uint8), grid


def pack_flat(codes: Tensor, bits: int) -> Tensor:
    """Return integers of one width packed in sequence."""
    eights = torch.nn.functional.pad(codes.flatten(), (0, -codes.numel() % 8)).view(-1, 8)
    packed = pack(eights, torch.full((8,), bits)).flatten()
    return packed[: (codes.numel() * bits + 7) // 8].clone()


def unpack_flat(packed: Tensor, count: int, bits: int) -> Tensor:
    """Return the first `count` integers of `pack_flat`, uint8."""
    padded = torch.nn.functional.pad(packed, (0, -(-count // 8) * bits - len(packed)))
    eights = unpack(padded.view(-(-count // 8), bits), torch.full((8,), bits))
    return eights.flatten()[:count]


def pack_basis(basis: Tensor, bits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the codes (uint8) and scales (r float16) of the rows of a basis, r×d."""
    places, total = _basis_places(bits, basis.shape[1])
    codes = torch.empty(total, dtype=torch.uint8)
    scales = torch.zeros(len(basis), dtype=torch.float16)
    for depth, (rows, bytes_) in places.items():
        rounded = round_to_nearest(basis[rows], depth)
        codes[bytes_] = rounded.codes
        scales[rows] = (rounded.scales[:, 0].float() * power(rounded.exponent)).half()
    return codes, scales


def _basis_places(bits: Tensor, width: int) -> tuple[dict[int, tuple[Tensor, Tensor]], int]:
    """Return for each number of bits its rows and the places of their bytes; and all bytes."""
    lengths = (bits.long() * width + 7) // 8
    starts = lengths.cumsum(0) - lengths
    places = {}
    for depth in bits.unique().tolist():
        rows = (bits == depth).nonzero().flatten()
        steps = torch.arange((depth * width + 7) // 8, device=bits.device)
        places[depth] = rows, starts[rows].unsqueeze(1) + steps
    return places, int(lengths.sum())


def basis_levels(packed: Tensor, bits: Tensor, width: int) -> Tensor:
    """Return the rows of a packed basis in units of their scales, r×d float32."""
    levels = torch.empty(len(bits), width, device=packed.device)
    for depth, (rows, bytes_) in _basis_places(bits, width)[0].items():
        codes = unpack(packed[bytes_], torch.full((width,), depth))
        levels[rows] = codes.float() - (2**depth - 1) / 2
    return levels


def unpack_basis(packed: Tensor, bits: Tensor, scales: Tensor, width: int) -> Tensor:
    """Return the rows of a packed basis, r×d float32."""
    return basis_levels(packed, bits, width) * scales.float().unsqueeze(1)
