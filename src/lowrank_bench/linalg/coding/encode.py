"""Transform coding: rotate a table, and give every (band, direction) the bits that it earns."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.coding.bits import Allocation, allocate, rate_distortion_bound
from lowrank_bench.linalg.coding.coded import relative_error
from lowrank_bench.linalg.coding.gaussian import distortions, lloyd_max
from lowrank_bench.linalg.coding.packing import MOST, pack
from lowrank_bench.linalg.coding.transform import (
    NIBBLE,
    TransformCodes,
    logarithmic,
    pack_basis,
    pack_flat,
    to_logarithmic,
    unpack_basis,
)
from lowrank_bench.linalg.gram import gram, largest_entry, power_of_two

Basis = Literal["weighted", "plain", "none"]
BANDS = 32
GAIN_BITS = 8
SCALE_BITS = 8
HEADER = 4 * 6 + 2 * 4  # bytes of `transform` and `ranges`


@dataclass
class Plan:
    """Sizes that are chosen together: directions, bits of the basis, bits of the rows."""

    directions: int
    basis_bits: Tensor
    allocation: Allocation
    error: float


def transform_code(
    matrix: Tensor,
    weights: Tensor,
    n_bytes: int,
    *,
    bands: int = BANDS,
    basis: Basis = "weighted",
    gains: bool = True,
    gain_bits: int = GAIN_BITS,
    **hooks: Any,
) -> tuple[TransformCodes, dict[str, Any]]:
    n, d = matrix.shape
    weights = weights.double() / weights.double().mean()
    peak = largest_entry(matrix)
    unit = power_of_two(peak) if peak > 0 else 1.0
    rows = matrix.double() / unit
    mean = ((weights @ rows) / weights.sum()).half()
    rows = rows - mean.double()
    labels, counts = cut(weights, bands)
    if basis == "none":
        vectors = None
        turned = rows
    else:
        square = gram(rows, weights.sqrt() if basis == "weighted" else None)
        vectors = torch.linalg.eigh(square)[1].flip(1)
        turned = rows @ vectors
    size = rows.square().mean(1).sqrt() if gains else torch.ones(n, dtype=torch.float64)
    gain_codes, gain_grid = to_logarithmic(size, gain_bits)
    if gains:
        size = logarithmic(gain_codes, gain_grid).double()
    energy = banded(turned, weights, labels, len(counts))
    heavy = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, labels, weights * size.square())
    label_bits = max(1, (len(counts) - 1).bit_length())
    fixed = HEADER + 2 * d + (n * label_bits + 7) // 8 + ((n * gain_bits + 7) // 8 if gains else 0)
    plan = choose(energy, counts, n_bytes - fixed, d, vectors is not None)
    r, bits = plan.directions, plan.allocation.bits
    parts = {}
    if vectors is not None:
        stored, scales = pack_basis(vectors.T[:r], plan.basis_bits)
        parts = dict(basis=stored, basis_scales=scales, basis_bits=pack_flat(plan.basis_bits, NIBBLE))
        used = unpack_basis(stored, plan.basis_bits, scales, d).double()
        turned = torch.linalg.solve(used @ used.T, used @ rows.T).T
        energy = banded(turned, weights, labels, len(counts))
    turned = turned[:, :r] / size.unsqueeze(1).clamp(min=1e-300)
    spread = (energy[:, :r] / heavy.unsqueeze(1).clamp(min=1e-300)).sqrt()
    scale_codes, scale_grid = to_logarithmic(torch.where(bits > 0, spread, 0.0), SCALE_BITS)
    grid_scales = logarithmic(scale_codes, scale_grid)
    codes = encode_rows(turned.float(), labels, bits, grid_scales)
    table = pack(bits, torch.full((r,), NIBBLE))
    head = torch.tensor([n, d, r, label_bits, gain_bits if gains else 0, math.frexp(unit)[1] - 1])
    code = TransformCodes(
        head.int(), pack_flat(labels, label_bits), table, scale_codes,
        torch.stack([scale_grid, gain_grid]), codes,
        gains=pack_flat(gain_codes, gain_bits) if gains else None,
        mean=torch.ldexp(mean, torch.tensor(0)), **parts)
    info = dict(r=r, basis_bits=plan.basis_bits.tolist() if vectors is not None else None, predicted=plan.error, lp=plan.allocation.lp_bound, total=float(energy.sum()),
       rd=rate_distortion_bound(energy, counts, 8*plan.allocation.spent), payload=plan.allocation.spent)
    return code, info


def cut(weights: Tensor, bands: int) -> tuple[Tensor, Tensor]:
    """Return the band of each row, and the rows of each band: sorted by weight, growing sizes."""
    n = len(weights)
    first = min(n, 16)
    ends = torch.logspace(math.log10(first), math.log10(n), bands, dtype=torch.float64).round().long().unique()
    order = torch.argsort(weights, descending=True, stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(n)
    labels = torch.searchsorted(ends, place, right=True)
    return labels, torch.bincount(labels, minlength=len(ends))


def banded(turned: Tensor, weights: Tensor, labels: Tensor, bands: int) -> Tensor:
    """Return Σ_{i in g} w_i c_ij², G×r."""
    total = turned.new_zeros(bands, turned.shape[1])
    return total.index_add_(0, labels, turned.square() * weights.unsqueeze(1))


def choose(energy: Tensor, counts: Tensor, budget: int, d: int, rotated: bool) -> Plan:
    curve = distortions()
    bands, width = energy.shape
    whole = float(energy.sum())
    if not rotated:
        side = bands * (width + (width + 1) // 2)
        if budget < side: raise LowRankError("too small")
        a = allocate(energy, counts, curve, budget - side)
        return Plan(width, torch.zeros(0), a, a.error)
    best = None
    for r in sorted({max(1, round(width * k / 24)) for k in range(1, 25)}):
        part = energy[:, :r]
        depth = torch.full((r,), 6)
        plan = None
        for _ in range(3):
            side = bands * (r + (r + 1) // 2) + 2 * r + (r + 1) // 2 + int(((d * depth + 7) // 8).sum())
            if budget <= side: break
            a = allocate(part, counts, curve, budget - side)
            kept = (part * (1 - curve[a.bits])).sum(0)
            error = a.error + whole - float(part.sum()) + float((kept * 1.15 * curve[depth]).sum())
            if plan is None or error < plan.error:
                plan = Plan(r, depth, a, error)
            price = a.rate / 8  # error that a bit saves
            gain = kept.unsqueeze(1) * 1.15 * (curve[:-1] - curve[1:]) / d
            depth = (gain > price).sum(1).clamp(min=1, max=8)
        if plan is not None and (best is None or plan.error < best.error):
            best = plan
    if best is None: raise LowRankError("too small")
    return best


def encode_rows(turned: Tensor, labels: Tensor, bits: Tensor, scales: Tensor) -> Tensor:
    """Return the packed codes of all rows in the order of the rows."""
    strides = (bits.sum(1) + 7) // 8
    lengths = strides[labels]
    starts = lengths.cumsum(0) - lengths
    stream = torch.zeros(int(lengths.sum()), dtype=torch.uint8)
    for band in range(len(bits)):
        ids = (labels == band).nonzero().flatten()
        if int(strides[band]) == 0: continue
        part = turned[ids] / torch.where(bits[band] > 0, scales[band], 1.0)
        codes = torch.zeros(part.shape, dtype=torch.uint8)
        for b in bits[band].unique().tolist():
            if b == 0: continue
            cols = (bits[band] == b).nonzero().flatten()
            levels = lloyd_max(b).float()
            cuts = (levels[1:] + levels[:-1]) / 2
            codes[:, cols] = torch.bucketize(part[:, cols].contiguous(), cuts, out_int32=True).to(torch.uint8)
        packed = pack(codes, bits[band])
        stream[starts[ids].unsqueeze(1) + torch.arange(int(strides[band]))] = packed
    return stream
