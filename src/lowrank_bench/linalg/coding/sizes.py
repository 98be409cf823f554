"""How many directions a transform code keeps, and how the bytes divide between basis and rows."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.coding.bits import Allocation, allocate
from lowrank_bench.linalg.coding.gaussian import distortions

NIBBLE = 4  # bits that store a number of bits
TRIED = 16  # numbers of directions that are tried
ROUNDING = 1.15  # error of a uniform grid with its best scale, against that of `distortions`
START = 6  # bits of the basis to begin with
HEADER = 4 * 7 + 2 * 4  # bytes of `transform` and `ranges`


@dataclass(frozen=True)
class Sizes:
    """Directions r, the bits of each basis vector (r integers) and of each (band, direction).

    `error` is the predicted weighted error, with that of the basis and of directions left out.
    """

    directions: int
    basis_bits: Tensor
    allocation: Allocation
    error: float

    @property
    def bits(self) -> Tensor:
        """Return the bits of each (band, direction)."""
        return self.allocation.bits


def header_bytes(rows: int, bands: int, gain_bits: int) -> int:
    """Return the bytes of sizes, labels and gains."""
    label_bits = (bands - 1).bit_length()
    return HEADER + (rows * label_bits + 7) // 8 + (rows * gain_bits + 7) // 8


def choose_sizes(
    energy: Tensor, counts: Tensor, curve: Tensor, budget: int, rotated: bool
) -> Sizes:
    """Return the sizes of least predicted error.

    Parameters
    ----------
    energy
        Tensor G×d: weighted energy of each (band, direction), directions in order.
    counts
        Tensor of G integers: the rows of each band.
    curve
        Error at unit variance for each number of bits.
    budget
        Bytes for the basis, its bits and scales, the table of bits, the scales, and the codes.
    rotated
        Whether there is a basis; without one all directions are kept.

    Raises
    ------
    LowRankError
        If the budget does not hold the tables of one direction.
    """
    bands, width = energy.shape
    steps = [max(1, -(-width * step // TRIED)) for step in range(1, TRIED + 1)]
    tried = sorted({1, 2, 4, *steps}) if rotated else [width]
    best = None
    for directions in tried:
        if directions > width:
            continue
        sizes = _divide(energy, counts, curve, budget, directions, rotated)
        if sizes is not None and (best is None or sizes.error < best.error):
            best = sizes
    if best is None:
        least = _side(bands, min(tried), torch.ones(min(tried) * rotated), width)
        raise LowRankError(
            f"{budget} bytes for basis and rows hold no transform code: allow {least - budget} more"
        )
    return best


def _side(bands: int, directions: int, depth: Tensor, width: int) -> int:
    """Return the bytes of scales, table and basis."""
    size = bands * (directions + (directions + 1) // 2)
    if len(depth):
        basis = int(((width * depth.long() + 7) // 8).sum())
        size += basis + 2 * directions + (directions + 1) // 2
    return size


def _divide(
    energy: Tensor, counts: Tensor, curve: Tensor, budget: int, directions: int, rotated: bool
) -> Sizes | None:
    """Return the best division between basis and rows for that many directions, or None."""
    bands, width = energy.shape
    part = energy[:, :directions]
    left_out = float(energy[:, directions:].sum())
    rounding = ROUNDING * distortions()
    depth = torch.full((directions if rotated else 0,), START)
    best = None
    for start in (START, 1):  # a small budget may hold a coarse basis only
        depth = torch.full_like(depth, start)
        for _ in range(3):
            left = budget - _side(bands, directions, depth, width)
            if left < 0:
                break
            rows = allocate(part, counts, curve, left)
            # A rounded basis vector errs in proportion to the energy that its codes carry.
            kept = (part * (1 - curve[rows.bits])).sum(0)
            basis = float((kept * rounding[depth]).sum()) if rotated else 0.0
            error = rows.error + left_out + basis
            if best is None or error < best.error:
                best = Sizes(directions, depth, rows, error)
            # A bit of a basis vector costs d bits, and is worth what they buy in the rows.
            gains = kept.unsqueeze(1) * (rounding[:-1] - rounding[1:]) / width
            if rotated:
                depth = (gains > rows.rate / 8).sum(1).clamp(min=1, max=8)
        if best is not None:
            break
    return best
