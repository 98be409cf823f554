"""Lloyd–Max quantizers of a unit Gaussian: the levels of least mean squared error."""

import math
from functools import lru_cache

import torch
from torch import Tensor

ITERATIONS = 100
WARM = 20  # steps of Lloyd before those of Newton
TIGHT = 1e-13


@lru_cache(maxsize=16)
def _lloyd_max(bits: int) -> tuple[Tensor, float]:
    """Return the positive levels, ascending, and the distortion."""
    half = 1 << max(bits - 1, 0)
    # Panter and Dite: the best levels are spread like the density to the power of a third.
    share = (torch.arange(half, dtype=torch.float64) + 0.5) / half
    levels = math.sqrt(3) * torch.special.ndtri(0.5 + share / 2)
    for turn in range(ITERATIONS):
        cuts = _cuts(levels)
        density = torch.exp(-cuts.square() / 2) / math.sqrt(2 * math.pi)
        tail = torch.special.ndtr(-cuts)  # exact where the density is small
        mass = tail[:-1] - tail[1:]
        means = (density[:-1] - density[1:]) / mass
        if turn < WARM:
            levels = means  # a step of Lloyd: each level moves to the mean of its cell
            continue
        # Newton's step for means(levels) = levels; a mean moves with the two ends of its cell.
        low = density[:-1] * (means - cuts[:-1]) / mass / 2
        high = torch.zeros_like(low)
        high[:-1] = density[1:-1] * (cuts[1:-1] - means[:-1]) / mass[:-1] / 2
        low[0] = 0.0  # the first cell begins at zero
        slope = torch.diag(low + high - 1) + torch.diag(low[1:], -1) + torch.diag(high[:-1], 1)
        change = torch.linalg.solve(slope, levels - means)
        levels = levels + change
        if float(change.abs().max()) < TIGHT:
            break
    cuts = _cuts(levels)
    mass = torch.special.ndtr(-cuts)
    mass = mass[:-1] - mass[1:]
    # At the optimum each level is the mean of its cell, so the error is 1 − E[level²].
    return levels, 1.0 - 2.0 * float((mass * levels.square()).sum())


def _cuts(levels: Tensor) -> Tensor:
    """Return the ends of the cells of the positive levels, from 0 to infinity."""
    middle = (levels[1:] + levels[:-1]) / 2
    return torch.cat([levels.new_zeros(1), middle, levels.new_full((1,), torch.inf)])


def lloyd_max(bits: int) -> Tensor:
    """Return the 2^bits levels of the Lloyd–Max quantizer of N(0, 1), ascending float64.

    Source: Max, "Quantizing for minimum distortion", 1960, table I. With 0 bits the one level is 0.
    """
    if bits == 0:
        return torch.zeros(1, dtype=torch.float64)
    positive = _lloyd_max(bits)[0]
    return torch.cat([-positive.flip(0), positive])


def distortions(most: int = 8) -> Tensor:
    """Return the mean squared error of `lloyd_max` for 0 to `most` bits; it is convex in them."""
    return torch.tensor([1.0, *(_lloyd_max(bits)[1] for bits in range(1, most + 1))]).double()
