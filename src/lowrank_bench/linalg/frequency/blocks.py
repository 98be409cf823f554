"""Rows in the order of their weight, cut into blocks with factors of their own rank."""

from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowrank_bench.linalg.allocation import Choice, Menu, best_path
from lowrank_bench.linalg.decomposition import orient
from lowrank_bench.linalg.factors import BlockFactors, DenseRows, Factors
from lowrank_bench.linalg.gram import gram, right_singular

PIECES = 16  # blocks at most, so that a label has four bits
STEP = 2**0.5  # each cut has this many times as many rows before it as the one before
TOLERANCE = 1e-6  # of the weighted energy of the matrix


def geometric_cuts(rows: int) -> list[int]:
    """Return 0 = c_0 < … < c_m = `rows`, m ≤ 16, each √2 times the one before."""
    cuts = {round(rows / STEP**power) for power in range(PIECES)}
    return [0, *sorted(cuts - {0})]


def equal_cuts(rows: int, blocks: int) -> list[int]:
    """Return the cuts of blocks of like size."""
    return [rows * block // blocks for block in range(blocks + 1)]


def weighted_blocks(
    matrix: Tensor, weights: Tensor, budget: int, cuts: Sequence[int], free: bool = True
) -> tuple[BlockFactors, dict[str, Any]]:
    """Return blocks of rows of the least weighted error Σ w_i ‖a_i − b_i‖² within a budget.

    Rows are sorted by weight, the largest first, and cut. The best factors of rank r of a block
    are those of the SVD of diag(√w) A, which loses the eigenvalues of Aᵀ diag(w) A beyond the
    first r and stores r·(rows + columns) numbers; rows kept as they are lose nothing. Cuts and
    ranks that lose least are found together by `allocation.best_path`.

    Parameters
    ----------
    matrix
        Tensor A, n×d, float64.
    weights
        Tensor w of n, > 0.
    budget
        Numbers that may be kept; a label counts as its bits / 32.
    cuts
        Where blocks may begin and end, 0 to n, at most 17.
    free
        Whether cuts may be left out, so that blocks join.

    Raises
    ------
    LowRankError
        When the budget does not allow a rank of one for all rows.
    """
    order = torch.argsort(weights, descending=True, stable=True)
    rows, share = matrix[order], weights[order] / weights.sum()
    last = len(cuts) - 1
    spans = list(combinations(range(last + 1), 2)) if free else list(pairwise(range(last + 1)))
    menus = _menus(rows, share, cuts, spans)
    whole = next((menu for menu in menus if menu.stop - menu.start == last), None)
    labels = -(-len(matrix) * (last - 1).bit_length() // 32)
    if whole is not None and not _affordable(menus, budget - labels):
        menus, labels = [whole], 0
    scale = sum(float(menu.gains.max()) for menu in menus if menu.stop == menu.start + 1)
    found = best_path(menus, budget - labels, TOLERANCE * scale)
    sizes = {(menu.start, menu.stop): menu for menu in menus}
    parts, numbers = [], torch.empty(len(matrix), dtype=torch.uint8, device=matrix.device)
    for number, choice in enumerate(found.choices):
        part = slice(cuts[choice.start], cuts[choice.stop])
        places = order[part].sort()
        numbers[places.values] = number
        own, weight = rows[part][places.indices], share[part][places.indices]
        parts.append(_block(own, weight, choice, sizes[choice.start, choice.stop]))
    ranks = [part.rank if isinstance(part, Factors) else "whole" for part in parts]
    sizes_ = [cuts[choice.stop] - cuts[choice.start] for choice in found.choices]
    info = {"block_rows": sizes_, "block_ranks": ranks, "gap": max(0.0, found.bound - found.gain)}
    return BlockFactors(numbers, tuple(parts)), info


def _affordable(menus: Sequence[Menu], budget: int) -> bool:
    """Return whether some path of blocks is within the budget."""
    least = {0: 0}
    for menu in sorted(menus, key=lambda menu: menu.start):
        if menu.start in least:
            cost = least[menu.start] + int(menu.costs.min())
            least[menu.stop] = min(least.get(menu.stop, cost), cost)
    return least[max(least)] <= budget


def _menus(
    rows: Tensor, share: Tensor, cuts: Sequence[int], spans: Sequence[tuple[int, int]]
) -> list[Menu]:
    """Return for each span what each rank costs and gains, from sums of Gram matrices."""
    pieces = [gram(rows[a:b], share[a:b].sqrt()) for a, b in pairwise(cuts)]
    menus = []
    for start, stop in spans:
        whole = sum(pieces[start + 1 : stop], pieces[start])
        values = torch.linalg.eigvalsh(whole).flip(0).clamp(min=0).cpu().numpy()
        menus.append(_menu(start, stop, cuts[stop] - cuts[start], values))
    return menus


def _menu(start: int, stop: int, rows: int, values: np.ndarray) -> Menu:
    """Return the ranks that cost less than the rows themselves, and last the rows."""
    columns = len(values)
    ranks = np.arange(1, min(rows, columns) + 1)
    ranks = ranks[ranks * (rows + columns) < rows * columns]
    costs = np.append(ranks * (rows + columns), rows * columns).astype(np.int64)
    gains = np.append(values.cumsum()[ranks - 1], values.sum())
    return Menu(start, stop, costs, gains)


def _block(rows: Tensor, share: Tensor, choice: Choice, menu: Menu) -> Factors | DenseRows:
    if choice.option == len(menu.costs) - 1:
        return DenseRows(rows.clone())
    rank = int(menu.costs[choice.option]) // sum(rows.shape)
    _, vectors = right_singular(rows * (share / share.mean()).sqrt().unsqueeze(1))
    basis = orient(vectors[:, :rank])
    return Factors(rows @ basis, basis.T.contiguous())
