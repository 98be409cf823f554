"""Important rows kept whole and all others as sparse combinations of them, in one budget."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.factors import KEPT, OFFSET, SparseFactors
from lowrank_bench.linalg.frequency.pursuit import combination, matching_pursuit
from lowrank_bench.linalg.units import unit_of

PRICE = 1.5  # numbers stored per term: its coefficient, and a 16-bit row index
ROW_PRICE = 0.25  # numbers stored per row: an 8-bit count of terms
SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of the budget, for whole rows
SAMPLE = 400  # rows on which the shares are compared
MOST_ROWS = 2 * OFFSET  # what 16 bits can address
SLACK = 0.5  # the pursuit of a row stops at this fraction of the gain that pays for a term


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
    kept rows is the best of ten shares of the budget, compared on a sample of the other rows.

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
    table = matrix[order] / unit_of(matrix)  # the search squares entries in float32
    share = (weights / weights.sum())[order]
    # A row with more than columns / PRICE terms would be cheaper whole.
    limit = max(1, min(limit, KEPT - 1, int(columns / PRICE)))
    plans = [_plan(table, share, kept, left, limit, atoms) for kept in _sizes(rows, columns, left)]
    plan = min(plans, key=lambda plan: plan.error)
    kept, others = plan.kept, table[plan.kept :]
    terms, indices, values = _combine(others, table[:kept], share[kept:], plan, left, atoms)
    factors = _assemble(matrix, order, kept, terms, indices, values)
    info = {
        "rows_kept": kept,
        "median_terms": float(terms.double().median()) if len(terms) else 0.0,
        "most_terms": int(terms.max()) if len(terms) else 0,
    }
    return factors, info


def _sizes(rows: int, columns: int, left: float) -> list[int]:
    most = min(rows, int(left / columns), MOST_ROWS)
    return sorted({max(1, min(most, int(share * left / columns))) for share in SHARES} | {most})


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
    gains = (energies[:, :-1] - energies[:, 1:]).double()
    gains = torch.where(gains > 1e-9 * energies[:, :1], gains, 0.0) * share.unsqueeze(1)
    gains = gains.cummin(dim=1).values  # a later term requires the earlier ones
    # Terms are bought in order of their gain: the budget sets the threshold.
    total, most = gains.numel(), int(left / PRICE + 1e-9)
    least = 0.0 if most >= total else float(gains.flatten().kthvalue(total - most).values)
    return (gains > least).sum(dim=1), least


def _combine(
    others: Tensor, kept: Tensor, share: Tensor, plan: _Plan, left: float, atoms: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the number of terms of each other row, and all indices and values in sequence."""
    if plan.terms == 0:
        empty = torch.zeros(0, dtype=torch.int64, device=others.device)
        return empty.new_zeros(len(others)), empty, others.new_zeros(0)
    source = kept[:atoms]
    # The threshold of the sample is only an estimate: pursue somewhat further, then divide again.
    worth = SLACK * plan.least / share
    indices, energies = matching_pursuit(others, source, plan.terms, worth)
    terms, _ = _divide(energies, share, left - kept.numel())
    values = combination(others, source, indices, terms)
    used = torch.arange(indices.shape[1], device=others.device) < terms.unsqueeze(1)
    return terms, indices[used], values


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
