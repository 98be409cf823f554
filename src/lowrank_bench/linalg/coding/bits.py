"""Who gets how many bits: the least weighted error in a budget, and how far from the best.

Bands of rows g share a number of bits for each direction c. One more bit for (g, c) costs n_g bits
and lowers the error by E_gc (D(b) − D(b + 1)), where E_gc is the weighted energy of the band in
the direction and D the error of a quantizer at unit variance. D is convex, so that taking the
best gain for its cost, step by step, is exact until the budget ends within a step.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Allocation:
    """Bits of each (band, direction), and what is known of the best.

    Attributes
    ----------
    bits
        Tensor G×r of integers.
    error
        Predicted weighted error Σ E_gc D(b_gc).
    lp_bound
        The least error of any allocation over the same grid in the budget, fractions of a step
        allowed: no allocation is below it.
    step
        The error that the first step which no longer fitted would have saved; the error is at
        most `lp_bound` + `step`.
    spent
        Bytes used by rows.
    rate
        Error that the last step saved for each byte: the price of a byte.
    """

    bits: Tensor
    error: float
    lp_bound: float
    step: float
    spent: int
    rate: float


def allocate(energy: Tensor, rows: Tensor, curve: Tensor, budget: int, unit: int = 8) -> Allocation:
    """Return the bits of least predicted error whose packed rows fit into `budget` bytes.

    A row of a band takes whole bytes, so a step is `unit` = 8 bits for every row of one band, and
    within a band the best bits come first. The gains of the steps of a band decrease, so the
    best steps over all bands are taken in order of their gain a byte.

    Parameters
    ----------
    energy
        Tensor E, G×r float64 ≥ 0.
    rows
        Tensor of G integers: n_g, the rows of each band.
    curve
        Tensor of B + 1: the error at unit variance for 0 to B bits, convex and decreasing.
    budget
        Bytes for the codes of all rows.
    unit
        Bits of a step: 8 where every row starts at a byte; 1 counts `budget` in bits.
    """
    bands, width = energy.shape
    drops = (curve[:-1] - curve[1:]).to(energy)
    gains = (energy.unsqueeze(2) * drops).flatten(1)  # G×(r·B), the bits of a direction in order
    # Gains decrease with b and the sort is stable: every prefix is a number of bits for each c.
    best, order = gains.sort(dim=1, descending=True, stable=True)
    steps = -(-best.shape[1] // unit)
    filled = torch.nn.functional.pad(best, (0, steps * unit - best.shape[1]))
    saved = filled.view(bands, steps, unit).sum(2)
    cost = rows.to(saved).unsqueeze(1).expand(bands, steps)
    rate = torch.where((cost > 0) & (saved > 0), saved / cost.clamp(min=1), 0.0).flatten()
    queue = rate.argsort(descending=True, stable=True)[: int((rate > 0).sum())]
    band, price, worth = queue // steps, cost.flatten()[queue], saved.flatten()[queue]
    paid = price.cumsum(0)
    first = int((paid <= budget).sum())  # the first step that does not fit
    spent = int(paid[first - 1]) if first else 0
    price_of_byte = float(rate[queue[max(first - 1, 0)]]) if len(queue) else 0.0
    bound, step = float(energy.sum() * curve[0] - worth[:first].sum()), 0.0
    lengths = torch.bincount(band[:first], minlength=bands)
    if first < len(queue):
        step = float(worth[first])
        bound -= step * (budget - spent) / float(price[first])
        spent += _fill(lengths, band[first:].tolist(), price[first:].tolist(), budget - spent)
    chosen = torch.arange(best.shape[1]) < (lengths * unit).unsqueeze(1)
    bits = torch.zeros(bands, width, dtype=torch.long)
    bits.scatter_add_(1, order // len(drops), (chosen & (best > 0)).long())
    error = float((energy * curve.to(energy)[bits]).sum())
    return Allocation(bits, error, min(bound, error), step, spent, price_of_byte)


def _fill(lengths: Tensor, bands: list[int], prices: list[float], left: int) -> int:
    """Add later steps that still fit to `lengths`, each band's in order; return their cost."""
    before, blocked = left, set[int]()
    for band, price in zip(bands, prices, strict=True):
        if band in blocked:
            continue
        if price > left:  # a later step of this band would leave a hole
            blocked.add(band)
            if len(blocked) == len(lengths):
                break
            continue
        lengths[band] += 1
        left -= int(price)
    return before - left


def rate_distortion_bound(energy: Tensor, rows: Tensor, bits: float) -> float:
    """Return the least weighted error of any code of that many bits, for Gaussian coefficients.

    Reverse water-filling: with variances σ²_gc = E_gc / W_g and weights W_g / n_g a row, every
    coefficient keeps the error min(E_gc, n_g θ) and costs ½ log₂(E_gc / (n_g θ)) bits where that
    is positive; θ is such that the bits add up. No code of Gaussian rows with these covariances,
    of whatever length and complexity, has less error. Source: Cover & Thomas, section 10.3.

    Parameters
    ----------
    energy
        Tensor E, G×r ≥ 0: summed weighted squares of band g in direction c.
    rows
        Tensor of G integers: n_g.
    bits
        Bits in all.
    """
    count = rows.to(energy).unsqueeze(1).expand_as(energy).flatten()
    level = energy.flatten() / count.clamp(min=1)
    level, order = level.sort(descending=True)
    count = count[order]
    live = (level > 0) & (count > 0)
    level, count = level[live], count[live]
    if len(level) == 0:
        return 0.0
    # With the first k active: Σ n ½ log₂(level / θ) = bits gives log₂ θ in closed form.
    rows_so_far = count.cumsum(0)
    log_theta = ((count * level.log2()).cumsum(0) - 2 * bits) / rows_so_far
    # The right k is the largest whose own level is still above its water.
    active = int((level.log2() > log_theta).sum())
    if active == 0:
        return float((level * count).sum())
    theta = log_theta[active - 1].exp2()
    return float(theta * rows_so_far[active - 1] + (level * count)[active:].sum())
