"""Rows that a code would make worse than their mean: other gains for them, in the same bytes."""

from dataclasses import replace

import torch
from torch import Tensor

from lowrank_bench.linalg.coding.flat import logarithmic, pack_flat, to_logarithmic
from lowrank_bench.linalg.coding.transform import TransformCodes

CHUNK = 4096  # rows that are decoded at a time
OCTAVES = 24  # gains reach no farther below the largest
TURNS = 4
BADLY = 0.5  # of the squared distance from the mean


def row_errors(rows: Tensor, code: TransformCodes) -> tuple[Tensor, Tensor]:
    """Return ‖a_i − b_i‖² and ‖a_i − μ‖² of each row, n float64 each; μ is the mean of the code."""
    mean = 0.0 if code.offset is None else code.offset.double()
    errors, around = [], []
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        errors.append((part - code.dense(start, start + CHUNK).double()).square().sum(1))
        around.append((part - mean).square().sum(1))
    return torch.cat(errors), torch.cat(around)


def mended(rows: Tensor, code: TransformCodes, weights: Tensor) -> tuple[TransformCodes, Tensor]:
    """Return a code with other gains for rows that it decodes farther off than the mean is.

    Levels and scales are those of a Gaussian row. One large entry among zeros has large errors in
    the zeros, and a shorter decoded row is nearer: such rows get the gain of least squares. The
    grid of all gains grows to reach it if the weighted error does not rise; otherwise the nearest
    gain is taken, and a row may stay worse than the mean.

    Parameters
    ----------
    rows
        Tensor n×d float64, in the unit of the code.
    code
        A code with gains; without them it is returned as it is.
    weights
        Tensor n: the weights of the rows.

    Returns
    -------
    tuple
        The code, as large as before, and ‖a_i − b_i‖² of each row, n float64.
    """
    errors, around = row_errors(rows, code)
    for _ in range(TURNS):  # on a new grid other rows may become worse
        worse = (errors > around).nonzero().flatten()
        if code.gain_codes is None or len(worse) == 0:
            break
        # Others that are served badly get their best gain at the same time.
        worse = (errors > BADLY * around).nonzero().flatten()
        gains = _best_gains(rows, code, worse)
        trials = [_with_gains(code, worse, gains, grows) for grows in (True, False)]
        for trial in trials:
            reached, _ = row_errors(rows, trial)
            if float((weights * reached).sum()) <= float((weights * errors).sum()):
                code, errors = trial, reached
                break
    return code, errors


def _best_gains(rows: Tensor, code: TransformCodes, worse: Tensor) -> Tensor:
    """Return the gain of least squares of the rows `worse`; 0 if none is better than nothing."""
    assert code.gain_codes is not None
    mean = 0.0 if code.offset is None else code.offset.double()
    gains = []
    for part in worse.split(CHUNK):
        old = code.gain_levels[code.gain_codes[part].long()].double()
        decoded = (code.decode(part).double() - mean) / old.unsqueeze(1)
        product = ((rows[part] - mean) * decoded).sum(1)
        gains.append(product.clamp(min=0) / decoded.square().sum(1).clamp(min=1e-300))
    return torch.cat(gains)


def _with_gains(code: TransformCodes, places: Tensor, gains: Tensor, grows: bool) -> TransformCodes:
    """Return the code with other gains at `places`, on a grid that may grow to reach them."""
    assert code.gain_codes is not None
    depth = int(code.transform[4])
    codes, grid = code.gain_codes.clone(), code.ranges[1]
    low, step = (float(value) for value in grid)
    every = code.gain_levels[codes.long()]
    least = float(every.max()) * 2.0**-OCTAVES
    gains = gains.clamp(min=least).float()
    top = low + step * (2**depth - 1)
    if grows and (float(gains.min()) < 2.0**low or float(gains.max()) > 2.0**top):
        every[places] = gains
        codes, grid = to_logarithmic(every, depth)
    else:
        near = ((gains.double().log2() - low) / max(step, 1e-12)).round()
        codes[places] = near.clamp(0, (1 << depth) - 1).to(torch.uint8)
    ranges = torch.stack([code.ranges[0], grid.to(code.ranges)])
    # The gain of a band of few rows may lie where the grid has none: take the next below.
    levels = logarithmic(codes[places], ranges[1])
    codes[places] -= ((levels > 1.9 * gains) & (codes[places] > 0)).to(torch.uint8)
    return replace(code, gains=pack_flat(codes, depth), ranges=ranges)
