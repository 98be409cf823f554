"""Rounding of coordinates in a basis whose vectors have different lengths.

An error in coordinate j counts m_j times, the squared length of vector j. Scales are those of least
error in this sense, and a row whose best code is farther from it than zero gets the scale zero.
"""

import torch
from torch import Tensor

from lowrank_bench.linalg.coding.coded import exponent_of, finite_unit
from lowrank_bench.linalg.coding.packing import pack
from lowrank_bench.linalg.coding.rounding import RoundedRows, half_scales, nearest_levels

CHUNK = 1 << 21  # entries that are rounded at a time
CLIPS = 10  # parts of the largest entry that are tried as the last level
REFINE = 4  # steps that alternate between codes and scale


def round_coordinates(
    matrix: Tensor, metric: Tensor, bits: int, group: int | None = None
) -> RoundedRows:
    """Return coordinates rounded to b bits with scales of least Σ_j m_j (a_ij − b_ij)².

    Parameters
    ----------
    matrix
        Tensor n×k, finite.
    metric
        Tensor k or n×k ≥ 0: the weights m.
    bits, group
        As `rounding.round_to_nearest` has them.
    """
    rows, width = matrix.shape
    group = max(1, min(group or width, width))
    unit = finite_unit(matrix)
    top = metric.amax(-1, keepdim=True)
    share = (metric / torch.where(top > 0, top, 1.0)).float().expand(rows, width)
    codes, scales = [], []
    for start in range(0, max(1, rows), max(1, CHUNK // max(1, width))):
        stop = start + max(1, CHUNK // max(1, width))
        part = (matrix[start:stop].double() / unit).float()
        code, size = _round(_cut(part, group), _cut(share[start:stop], group), bits)
        codes.append(pack(code.flatten(1)[:, :width], torch.full((width,), bits)))
        scales.append(size)
    sizes = torch.tensor([bits, group, width, exponent_of(unit)], dtype=torch.int32)
    return RoundedRows(torch.cat(codes), torch.cat(scales), sizes.to(matrix.device))


def _cut(rows: Tensor, group: int) -> Tensor:
    """Return rows n×k cut into groups, n×G×g; the last one is filled up with zeros."""
    padded = torch.nn.functional.pad(rows, (0, -rows.shape[1] % group))
    return padded.view(len(rows), padded.shape[1] // group, group)


def _round(rows: Tensor, share: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return codes n×G×g and half-precision scales n×G; padding has the share zero."""
    half = (2**bits - 1) / 2
    peak = rows.abs()
    heaviest = (peak * share.sqrt()).argmax(2, keepdim=True)
    tops = [peak.amax(2) * (1 - 0.085 * turn) for turn in range(CLIPS)]
    # Where light coordinates are large, the last level may have to be that of the heaviest one.
    tops.append(peak.gather(2, heaviest).squeeze(2))
    size = torch.zeros_like(tops[0])
    least = (share * rows.square()).sum(2)  # that of zero, which the scale zero gives
    for top in tops:
        size, least = _better(rows, share, bits, half_scales(top / half), size, least)
    for _ in range(REFINE):
        levels = nearest_levels(rows, size, bits)
        square = (share * levels.square()).sum(2)
        trial = half_scales((share * rows * levels).sum(2) / square.clamp(min=1e-30))
        size, least = _better(rows, share, bits, trial, size, least)
    codes = nearest_levels(rows, size, bits) + half
    return codes.round().to(torch.uint8), size.half()


def _better(
    rows: Tensor, share: Tensor, bits: int, trial: Tensor, size: Tensor, least: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the better of two scales of each group, and its error."""
    left = nearest_levels(rows, trial, bits).mul_(trial.unsqueeze(2)).sub_(rows)
    error = left.square_().mul_(share).sum(2)
    return torch.where(error < least, trial, size), torch.minimum(error, least)
