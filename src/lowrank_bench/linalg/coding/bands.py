"""Bands of rows by weight, their energies, and the codes of their rows."""

import math

import torch
from torch import Tensor

from lowrank_bench.linalg.coding.gaussian import lloyd_max
from lowrank_bench.linalg.coding.packing import pack
from lowrank_bench.linalg.coding.trellis import search

FIRST = 16  # rows of the band of the heaviest


def cut(weights: Tensor, bands: int) -> tuple[Tensor, Tensor]:
    """Return the band of each row (n int64), and how many rows each band has.

    Rows are sorted by weight, the heaviest first, and the ends of bands grow by a constant factor.
    """
    n = len(weights)
    ends = torch.tensor([n])
    if bands > 1 and n > FIRST:
        ends = torch.logspace(math.log10(FIRST), math.log10(n), bands, dtype=torch.float64)
        ends = ends.round().long().clamp(max=n).unique()
        ends[-1] = n
    place = torch.empty(n, dtype=torch.long)
    place[torch.argsort(weights, descending=True, stable=True)] = torch.arange(n)
    labels = torch.searchsorted(ends, place, right=True)
    return labels, torch.bincount(labels, minlength=len(ends))


def banded(turned: Tensor, weights: Tensor, labels: Tensor, bands: int) -> Tensor:
    """Return Σ_{i in g} w_i c_ij² for each band g and direction j, G×r."""
    total = turned.new_zeros(bands, turned.shape[1])
    return total.index_add_(0, labels, turned.square().mul_(weights.unsqueeze(1)))


def encode_rows(
    turned: Tensor, labels: Tensor, bits: Tensor, scales: Tensor, trellis: bool
) -> Tensor:
    """Return the packed codes of all rows in the order of the rows, uint8.

    Parameters
    ----------
    turned
        Tensor n×r: coefficients.
    labels
        Tensor n: the band of each row.
    bits, scales
        Tensors G×r of integers and float32.
    trellis
        Whether the codes of a row are searched together.
    """
    strides = (bits.sum(1) + 7) // 8
    lengths = strides[labels]
    starts = lengths.cumsum(0) - lengths
    stream = torch.zeros(int(lengths.sum()), dtype=torch.uint8)
    for band, depths in enumerate(bits):
        live = (depths > 0).nonzero().flatten()
        members = (labels == band).nonzero().flatten()
        if len(live) == 0 or len(members) == 0:
            continue
        depths, size = depths[live], scales[band][live].double()
        part = (turned[members][:, live] / size).float()
        codes = search(part.T.contiguous(), depths).T if trellis else _nearest(part, depths)
        where = starts[members].unsqueeze(1) + torch.arange(int(strides[band]))
        stream[where] = pack(codes, depths)
    return stream


def _nearest(values: Tensor, depths: Tensor) -> Tensor:
    """Return the number of the nearest Lloyd–Max level of each value, n×r uint8."""
    codes = torch.empty(values.shape, dtype=torch.uint8)
    for depth in depths.unique().tolist():
        columns = (depths == depth).nonzero().flatten()
        levels = lloyd_max(depth).float()
        cuts = (levels[1:] + levels[:-1]) / 2
        numbers = torch.bucketize(values[:, columns].contiguous(), cuts, out_int32=True)
        codes[:, columns] = numbers.to(torch.uint8)
    return codes
