"""Important rows kept whole and all others as sparse combinations of them, in one budget."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.factors import KEPT, OFFSET, SparseFactors
from lowrank_bench.linalg.frequency.pursuit import WIDE, combination, matching_pursuit
from lowrank_bench.linalg.units import unit_of

PRICE = 1.5  # numbers stored per term: its coefficient, and a 16-bit row index
ROW_PRICE = 0.25  # numbers stored per row: an 8-bit count of terms
SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # of the budget, for whole rows
FAIR = 1.1  # how much larger an expected error counts as nearly equal
SAMPLE = 256  # rows on which the shares are compared
USED = 0.97  # of the budget for terms, at least
BLOCK = 8192  # rows that are converted together
MOST_ROWS = 2 * OFFSET  # what 16 bits can address
SLACK = 0.9  # the pursuit of a row stops at this fraction of the gain that pays for a term


@dataclass(frozen=True)
class _Plan:
    """A choice of how many rows to keep whole, with its expected result."""

    kept: int
    error: float  # expected weighted error
    terms: int  # largest number of terms of a row
    least: float  # weighted gain of the last term that the budget pays for


def sparse_rows(
    matrix: Tensor,
    weights: Tensor,
    budget: float,
    limit: int = 64,
    atoms: int = 8192,
) -> tuple[SparseFactors, dict[str, Any]]:
    """Return the rows of largest weight, and sparse combinations of them for the others.

    Let e_i(t) be the error of the least-squares combination of the first t atoms that
    `matching_pursuit` chooses for row i. Terms are assigned one by one to the row with the largest
    w_i (e_i(t) − e_i(t + 1)), so that Σ w_i e_i is as small as the budget allows. The number of
    kept rows is the best of eleven shares of the budget, compared on a sample of the other rows.

    Parameters
    ----------
    matrix
        Tensor A, n×d, float64.
    weights
        Tensor w, n, > 0.
    budget
        Numbers that may be stored; indices count as their bits / 32.
    limit
        Largest number of terms of a row, up to 254.
    atoms
        How many of the kept rows combinations may use, those of largest weight.

    Raises
    ------
    LowRankError
        If the budget is too small for a single row.
    """
    rows, columns = matrix.shape
    left = budget - ROW_PRICE * rows
    if left < columns:
        raise LowRankError(
            f"{budget:g} numbers do not hold one of {rows} rows of {columns}; lower the compression"
        )
    order = torch.argsort(weights, descending=True, stable=True)
    table, unit = _single(matrix, order)
    share = (weights / weights.sum())[order]
    # A row with more than columns / PRICE terms would be cheaper whole.
    limit = max(1, min(limit, KEPT - 1, int(columns / PRICE)))
    plan = _best_plan(table, share, left, limit, atoms)
    kept = plan.kept
    terms, indices = _choose_terms(table, share[kept:], plan, left, limit, atoms)
    values = combination(matrix, order[kept:], matrix[order[:kept][:atoms]], indices, terms, unit)
    used = torch.arange(indices.shape[1], device=matrix.device) < terms.unsqueeze(1)
    factors = _assemble(matrix, order, kept, terms, indices[used].long(), values)
    info = {
        "rows_kept": kept,
        "median_terms": float(terms.double().median()) if len(terms) else 0.0,
        "most_terms": int(terms.max()) if len(terms) else 0,
    }
    return factors, info


def _single(matrix: Tensor, order: Tensor) -> tuple[Tensor, float]:
    """Return the rows in `order` in float32, and the unit that divides them."""
    unit = unit_of(matrix)  # the search squares entries in float32
    table = matrix.new_empty(matrix.shape, dtype=torch.float32)
    for start in range(0, len(order), BLOCK):
        table[start : start + BLOCK] = matrix[order[start : start + BLOCK]] / unit
    return table, unit


def _best_plan(table: Tensor, share: Tensor, left: float, limit: int, atoms: int) -> _Plan:
    """Return the best plan over shares of the budget, by descent from the middle one."""
    rows, columns = table.shape
    most = min(rows, int(left / columns), MOST_ROWS)
    sizes = sorted({max(1, min(most, int(part * left / columns))) for part in SHARES})
    plans: dict[int, _Plan] = {}

    def error(place: int) -> float:
        """Return the expected error of a number of kept rows, computed once."""
        if not 0 <= place < len(sizes):
            return math.inf
        if place not in plans:
            plans[place] = _plan(table, share, sizes[place], left, limit, atoms)
        return plans[place].error

    # A small table is cheap enough for all of them.
    every = range(len(sizes)) if rows <= 4 * SAMPLE else ()
    best = min(every, key=error, default=len(sizes) // 2)
    while error(nearest := min(best - 1, best + 1, key=error)) < error(best):
        best = nearest
    # Fewer terms are found and looked up faster: of nearly equal plans for a large and wide table,
    # that of most whole rows.
    fair = error(best) * (FAIR if columns >= WIDE and not every else 1)
    return plans[max(place for place, plan in plans.items() if plan.error <= fair)]


def _plan(table: Tensor, share: Tensor, kept: int, left: float, limit: int, atoms: int) -> _Plan:
    """Estimate the error with `kept` whole rows, from an evenly spaced sample of the others."""
    rows, columns = table.shape
    others = rows - kept
    if others == 0:
        return _Plan(kept, 0.0, 0, 0.0)
    size = min(SAMPLE, others)
    places = kept + torch.linspace(0, others - 1, size, device=table.device).round().long()
    most = min(limit, kept, atoms)
    _, energies = matching_pursuit(table[places], table[: min(kept, atoms)], most)
    part = others / size  # each sampled row stands for this many
    terms, least = _divide(energies, share[places], (left - kept * columns) / part)
    lost = energies.gather(1, terms.unsqueeze(1)).squeeze(1)
    return _Plan(kept, float((share[places] * lost).sum()) * part, int(terms.max()), least)


def _divide(energies: Tensor, share: Tensor, left: float) -> tuple[Tensor, float]:
    """Return the number of terms of each row, n int64, and the weighted gain of the last one."""
    gains = _slopes(energies) * share.unsqueeze(1)
    # Terms are bought in order of their gain: the budget sets the threshold.
    total, most = gains.numel(), int(left / PRICE + 1e-9)
    least = 0.0 if most >= total else float(gains.flatten().kthvalue(total - most).values)
    return (gains > least).sum(dim=1), least


def _slopes(energies: Tensor) -> Tensor:
    """Return the gain of each term, non-increasing in each row, n×limit float64.

    They are the slopes of the least concave curve above the gains so far: terms that prepare a
    larger gain are bought with it, at the mean of both.
    """
    gained = (energies[:, :1] - energies).double()
    # What float32 cannot tell from nothing is worth nothing.
    floor = 1e-9 * energies[:, 0].double()
    slopes = gained.new_zeros(len(gained), gained.shape[1] - 1)
    steps = torch.arange(1, gained.shape[1], device=gained.device)
    curve = gained[:, 0]
    for term in range(slopes.shape[1]):
        rise = gained[:, term + 1 :] - gained[:, term : term + 1]
        steepest = (rise / steps[: rise.shape[1]]).amax(dim=1)
        slope = torch.where(steepest > floor, steepest, 0.0)
        if term:  # between two points where it touches, the curve is straight
            touches = curve <= gained[:, term] + 1e-3 * floor
            slope = torch.where(touches, slope, slopes[:, term - 1])
        slopes[:, term] = slope
        curve = curve + slope
    return slopes.cummin(dim=1).values


def _choose_terms(
    table: Tensor, share: Tensor, plan: _Plan, left: float, limit: int, atoms: int
) -> tuple[Tensor, Tensor]:
    """Return the number of terms of each row that is not kept, and their indices, int16."""
    others, source = table[plan.kept :], table[: plan.kept][:atoms]
    if plan.terms == 0:
        none = torch.zeros(len(others), dtype=torch.int64, device=table.device)
        return none, none.new_zeros(len(others), 0, dtype=torch.int16)
    spare = left - plan.kept * table.shape[1]
    # The threshold of the sample is only an estimate: pursue somewhat further, then divide again.
    slack = SLACK
    while True:
        worth = slack * plan.least / share
        indices, energies = matching_pursuit(others, source, min(limit, len(source)), worth)
        terms, _ = _divide(energies, share, spare)
        # If rows stopped so early that the budget is not used up, they go further.
        if slack < 0.1 or plan.least == 0 or PRICE * int(terms.sum()) >= USED * spare:
            return terms, indices
        slack /= 2


def _assemble(
    matrix: Tensor, order: Tensor, kept: int, terms: Tensor, indices: Tensor, values: Tensor
) -> SparseFactors:
    """Put rows and combinations into the order of the matrix."""
    # Kept rows in matrix order; `rank` maps their index by weight to the new one.
    first, place = order[:kept].sort()
    rank = torch.empty_like(place)
    rank[place] = torch.arange(kept, device=order.device)
    second = order[kept:].argsort()
    counts = torch.full((len(matrix),), KEPT, dtype=torch.uint8, device=matrix.device)
    counts[order[kept:]] = terms.to(torch.uint8)
    # Move each combination as a block: `source` is the old place of every term in the new order.
    starts = terms.cumsum(0) - terms
    moved = torch.repeat_interleave(second, terms[second])
    inside = torch.arange(len(moved), device=order.device)
    ends = terms[second].cumsum(0) - terms[second]
    source = starts[moved] + inside - torch.repeat_interleave(ends, terms[second])
    numbers = (rank[indices[source]] - OFFSET).to(torch.int16)
    return SparseFactors(matrix[first], counts, numbers, values[source])
