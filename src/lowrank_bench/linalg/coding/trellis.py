"""Trellis-coded quantization: the last seven bits of a row's stream choose each level.

A field of b bits is read together with the bits before it: its level is decided by the last seven
bits of the stream, so that 128 levels are in reach of every b. The encoder takes the bits of
least squared error by dynamic programming over all histories. A unit Gaussian loses 0.288 at one
bit and 0.075 at two, where the best scalar quantizer loses 0.363 and 0.117, and no code less than
0.25 and 0.0625. Decoding is a look-up, as for a scalar code.

Levels are quantiles of a Gaussian in a scrambled order, level(w) = σ_b Φ⁻¹((a_b w mod 128 + ½) /
128), so that the branches that leave a history, and those that meet, lie far apart. The
multipliers were searched once among all odd numbers, and the errors measured, on simulated
Gaussians. Seven bits are a Lloyd–Max quantizer. Eight bits of history would lose 1 to 6 % less
and cost twice the time.

Source: Marcellin and Fischer, "Trellis coded quantization of memoryless and Gauss–Markov sources",
1990; Tseng et al., "QTIP", NeurIPS 2024, which reads levels from a shifted window of bits.
"""

from functools import lru_cache

import torch
from torch import Tensor

from lowrank_bench.linalg.coding.gaussian import distortions, lloyd_max
from lowrank_bench.linalg.coding.packing import MOST

WINDOW = 8  # bits that a reader takes; the trellis looks at all but the first
HISTORY = 7
STATES = 1 << HISTORY
CHUNK = 1024  # rows that are searched at a time
# For b = 1, 2, …: the multiplier a_b, the spread σ_b, and the error on a unit Gaussian.
SCRAMBLED: tuple[tuple[int, float, float], ...] = (
    (61, 0.953, 0.2864),
    (35, 1.065, 0.0754),
    (49, 1.151, 0.02022),
    (9, 1.218, 0.00549),
    (47, 1.34, 0.001535),
    (31, 1.5, 0.000486),
)
BEFORE = 25  # the window before a row: of all, the one from which the first fields lose least


@lru_cache(maxsize=2)
def level_table(trellis: bool) -> Tensor:
    """Return the level of every window of eight bits for fields of 0 to 8 bits, 9×256 float32.

    Without a trellis, the last b bits of the window are the number of a Lloyd–Max level.
    """
    window = torch.arange(1 << WINDOW)
    rows = [lloyd_max(bits)[window % (1 << bits)] for bits in range(MOST + 1)]
    if trellis:
        quantiles = torch.special.ndtri((torch.arange(STATES).double() + 0.5) / STATES)
        for bits, (multiplier, spread, _) in enumerate(SCRAMBLED, start=1):
            rows[bits] = spread * quantiles[window * multiplier % STATES]
    return torch.stack(rows).float()


def error_curve(trellis: bool) -> Tensor:
    """Return the mean squared error on a unit Gaussian, float64 and convex.

    For 0 to 8 bits without a trellis, for 0 to 7 bits with one.
    """
    if not trellis:
        return distortions(MOST)
    errors = distortions(HISTORY)
    errors[1 : len(SCRAMBLED) + 1] = torch.tensor([error for *_, error in SCRAMBLED])
    return errors


def search(values: Tensor, bits: Tensor) -> Tensor:
    """Return the codes of least squared error on the trellis (Viterbi's algorithm).

    Parameters
    ----------
    values
        Tensor m×n float32: n sequences side by side, of variance about one.
    bits
        Tensor of m integers, 1 to 7.

    Returns
    -------
    Tensor
        m×n uint8: the bits of each field. Every sequence starts after `BEFORE`.
    """
    # A field of seven bits does not look back, and if the next one does not either, nothing looks
    # at it: its code is the nearest level, and the others are chosen as if it were not there.
    full = bits == HISTORY
    alone = full & torch.cat([full[1:], torch.ones_like(full[:1])])
    codes = torch.empty(values.shape, dtype=torch.uint8)
    if bool(alone.any()):
        levels = level_table(True)[HISTORY, :STATES]
        cuts = (levels[1:] + levels[:-1]) / 2
        codes[alone] = torch.bucketize(values[alone], cuts, out_int32=True).to(torch.uint8)
    if not bool(alone.all()):
        rest = values[~alone].split(CHUNK, dim=1)
        codes[~alone] = torch.cat([_search(part, bits[~alone].tolist()) for part in rest], dim=1)
    return codes


def _search(values: Tensor, bits: list[int]) -> Tensor:
    n = values.shape[1]
    table = level_table(True)[:, :STATES]
    # (x − level)² without x², which is the same for all: factors of x and 1.
    factors = torch.stack([-2 * table, table.square()], dim=2)
    right = torch.ones(2, n)
    # The cost of the best stream that ends in each window; before the row it is known.
    cost = torch.full((STATES, n), 1e30)
    cost[BEFORE % STATES] = 0.0
    half = torch.empty(STATES, n)  # room for 64, 32, … rows
    history = []
    for value, depth in zip(values, bits, strict=True):
        # Windows that differ only in the bits that are shifted out now meet: keep the best of
        # them, found by halving, so that the highest bit is decided first.
        best, turns = cost.view(1 << depth, -1, n), []
        while len(best) > 1:
            low, high = best.chunk(2)
            turns.append(high < low)
            size = len(low) * low.shape[1]  # after the place of the one before it
            best = torch.minimum(low, high, out=half[size : 2 * size].view(low.shape))
        history.append(turns)
        # Each goes on with all 2^b fields.
        cost.view(-1, 1 << depth, n).copy_(best.view(-1, 1, n))
        right[0] = value
        cost.addmm_(factors[depth], right)
    return _trace(cost.argmin(0), history, bits)


def _trace(window: Tensor, history: list[list[Tensor]], bits: list[int]) -> Tensor:
    """Return the fields of the streams that end in `window`, from the last to the first."""
    n = len(window)
    windows = torch.empty(len(bits), n, dtype=torch.int32)
    place, window = torch.arange(n, dtype=torch.int32), window.int()
    for step in range(len(bits) - 1, -1, -1):
        depth = bits[step]
        windows[step] = window
        kept = window >> depth
        shifted, at = torch.zeros_like(window), torch.add(place, kept, alpha=n)
        for level, turn in enumerate(reversed(history[step])):
            index = torch.add(at, shifted, alpha=turn[0].numel())
            chosen = turn.view(torch.uint8).view(-1).index_select(0, index)
            shifted = torch.add(shifted, chosen, alpha=1 << level)
        window = kept.add_(shifted, alpha=1 << (HISTORY - depth))
    masks = (1 << torch.tensor(bits, dtype=torch.int32)) - 1
    return (windows & masks.unsqueeze(1)).to(torch.uint8)
