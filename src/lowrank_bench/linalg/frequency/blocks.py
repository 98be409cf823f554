"""Rows sorted by weight and cut into blocks, each with factors of its own rank."""

from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowrank_bench.linalg.allocation import Choice, Menu, best_path
from lowrank_bench.linalg.decomposition import orient
from lowrank_bench.linalg.factors import BlockFactors, DenseRows, Factors
from lowrank_bench.linalg.gram import gram, right_singular

PIECES = 16  # largest number of blocks, so that a label takes four bits
STEP = 2**0.5  # ratio of consecutive cuts
TOLERANCE = 1e-6  # accepted gap to the optimum, as a fraction of the weighted energy


def geometric_cuts(rows: int) -> list[int]:
    """Return 0 = c_0 < … < c_m = `rows`, m ≤ 16, with a ratio of √2 between cuts."""
    cuts = {round(rows / STEP**power) for power in range(PIECES)}
    return [0, *sorted(cuts - {0})]


def equal_cuts(rows: int, blocks: int) -> list[int]:
    """Return cuts for blocks of equal size, up to one row."""
    return [rows * block // blocks for block in range(blocks + 1)]


def weighted_blocks(
    matrix: Tensor, weights: Tensor, budget: int, cuts: Sequence[int], free: bool = True
) -> tuple[BlockFactors, dict[str, Any]]:
    """Return blocks of rows with the smallest weighted error Σ w_i ‖a_i − b_i‖² in a budget.

    Rows are sorted by weight, largest first, and cut into blocks. The best factors of rank r of a
    block come from the SVD of diag(√w) A. They lose the eigenvalues of Aᵀ diag(w) A beyond the
    first r and store r·(rows + columns) numbers; rows kept whole lose nothing.
    `allocation.best_path` optimises cuts and ranks together.

    Parameters
    ----------
    matrix
        Tensor A, n×d, float64.
    weights
        Tensor w, n, > 0.
    budget
        Numbers that may be stored; a label counts as its bits / 32.
    cuts
        Possible ends of blocks, from 0 to n, at most 17.
    free
        Whether cuts may be left out, which merges blocks.

    Raises
    ------
    LowRankError
        If the budget does not allow rank one for all rows.
    """
    order = torch.argsort(weights, descending=True, stable=True)
    rows, share = matrix[order], weights[order] / weights.sum()
    last = len(cuts) - 1
    # Possible blocks: between any two cuts, or only between neighbours.
    spans = list(combinations(range(last + 1), 2)) if free else list(pairwise(range(last + 1)))
    menus = _menus(rows, share, cuts, spans)
    # A single block needs no labels; fall back to it if the labels would exceed the budget.
    whole = next((menu for menu in menus if menu.stop - menu.start == last), None)
    labels = -(-len(matrix) * (last - 1).bit_length() // 32)
    if whole is not None and not _affordable(menus, budget - labels):
        menus, labels = [whole], 0
    scale = sum(float(menu.gains.max()) for menu in menus if menu.stop == menu.start + 1)
    path = best_path(menus, budget - labels, TOLERANCE * scale)
    sizes = {(menu.start, menu.stop): menu for menu in menus}
    parts, numbers = [], torch.empty(len(matrix), dtype=torch.uint8, device=matrix.device)
    for number, choice in enumerate(path.choices):
        part = slice(cuts[choice.start], cuts[choice.stop])
        # Within a block, rows return to the order of the matrix, so that labels are enough.
        places = order[part].sort()
        numbers[places.values] = number
        block, weight = rows[part][places.indices], share[part][places.indices]
        parts.append(_block(block, weight, choice, sizes[choice.start, choice.stop]))
    ranks = [part.rank if isinstance(part, Factors) else "whole" for part in parts]
    heights = [cuts[choice.stop] - cuts[choice.start] for choice in path.choices]
    info = {"block_rows": heights, "block_ranks": ranks, "gap": max(0.0, path.bound - path.gain)}
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
    """Return the menu of each span: cost and gain of each rank, from sums of Gram matrices."""
    pieces = [gram(rows[a:b], share[a:b].sqrt()) for a, b in pairwise(cuts)]
    menus = []
    for start, stop in spans:
        # The Gram matrix of a span is the sum over its pieces: no pass over its rows.
        whole = sum(pieces[start + 1 : stop], pieces[start])
        values = torch.linalg.eigvalsh(whole).flip(0).clamp(min=0).cpu().numpy()
        menus.append(_menu(start, stop, cuts[stop] - cuts[start], values))
    return menus


def _menu(start: int, stop: int, rows: int, values: NDArray[np.float64]) -> Menu:
    """Return the ranks that cost less than the rows themselves, and the rows as last option."""
    columns = len(values)
    ranks = np.arange(1, min(rows, columns) + 1)
    ranks = ranks[ranks * (rows + columns) < rows * columns]
    costs = np.append(ranks * (rows + columns), rows * columns).astype(np.int64)
    gains = np.append(values.cumsum()[ranks - 1], values.sum())
    return Menu(start, stop, costs, gains)


def _block(rows: Tensor, share: Tensor, choice: Choice, menu: Menu) -> Factors | DenseRows:
    if choice.option == len(menu.costs) - 1:  # the last option keeps the rows whole
        return DenseRows(rows.clone())
    rank = int(menu.costs[choice.option]) // sum(rows.shape)  # cost = rank·(rows + columns)
    _, vectors = right_singular(rows * (share / share.mean()).sqrt().unsqueeze(1))
    basis = orient(vectors[:, :rank])
    return Factors(rows @ basis, basis.T.contiguous())
