"""John's ellipsoid of {x : max |a_i·x| ≤ 1}, the largest inside it, from a D-optimal design.

Let M = Aᵀ diag(w) A for the w ≥ 0 with Σ w = d that maximises det M. For these weights
a_iᵀ M⁻¹ a_i ≤ 1 for every row, with equality where w_i > 0 (Kiefer and Wolfowitz; John). So
{y : yᵀM⁻¹y ≤ 1} is the smallest ellipsoid around the points ±a_i (Löwner's, of the polar body),
and its polar {x : xᵀMx ≤ 1} the largest inside the body. The weights are the limit of the ℓp Lewis
weights for p → ∞.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank_bench.linalg.gram import gram, squared_norms

REFRESH = 256  # minimum number of steps between two computations of M⁻¹ from its definition
GROWTH = 2  # rows added at a time, as a multiple of d


@dataclass(frozen=True)
class Design:
    """Weights whose ellipsoid contains all rows up to a factor.

    Attributes
    ----------
    weights
        Tensor w ≥ 0 of n, Σ w = d.
    excess
        max a_iᵀ M⁻¹ a_i − 1; 0 at the optimum.
    passes
        Number of passes over all rows.
    """

    weights: Tensor
    excess: float
    passes: int


def optimal_design(matrix: Tensor, start: Tensor, tolerance: float, steps: int) -> Design:
    """Return weights with max a_iᵀ M⁻¹ a_i ≤ 1 + `tolerance`, or the best after `steps` steps.

    The problem is solved for a growing set of rows: first those of largest weight, then also those
    farthest outside the ellipsoid of the set. No row leaves the set, so this terminates. Within
    the set, each step moves weight to the row farthest outside, or away from a row inside, with
    the step length that maximises the determinant. These steps converge from any start with
    det M > 0, and linearly in the end.

    Parameters
    ----------
    matrix
        Tensor A, n×d, float64, of full column rank; orthonormal columns are best.
    start
        Tensor n: positive weights.
    tolerance
        Accepted excess.
    steps
        Step limit; one step costs about 4·m·d operations for a set of m rows.

    References
    ----------
    Wolfe; Atwood; Todd and Yıldırım, "On Khachiyan's algorithm for the computation of
    minimum-volume enclosing ellipsoids", Discrete Applied Mathematics 155 (2007).
    Ahipaşaoğlu, Sun, Todd, "Linear convergence of a modified Frank-Wolfe algorithm for computing
    minimum-volume enclosing ellipsoids", Optimization Methods and Software 23 (2008).
    """
    rows, columns = matrix.shape
    if columns == 1:  # the longest row alone decides
        longest = matrix[:, 0].abs().argmax()
        return Design(matrix.new_zeros(rows).index_fill(0, longest, 1.0), 0.0, 1)
    chosen = start.argsort(descending=True)[: max(4 * GROWTH * columns, 64)]
    weights = start[chosen]
    passes = 0
    best: Design | None = None
    while True:
        inner = _Ascent(matrix[chosen], weights * (columns / weights.sum()))
        left = inner.run(tolerance / 2, steps)
        # Heights a_iᵀ M⁻¹ a_i of all rows: above one, a row lies outside the ellipsoid.
        heights = squared_norms(matrix, _inverse_root(inner.rows, inner.weights))
        passes += 1
        excess = float(heights.max()) - 1
        if best is None or excess < best.excess:
            full = matrix.new_zeros(rows).index_put((chosen,), inner.weights)
            best = Design(full, excess, passes)
        known = torch.zeros(rows, dtype=torch.bool, device=matrix.device)
        known[chosen] = True
        steps = left
        # Add the rows that are farthest outside, with weight zero.
        outside = torch.where(known, 0.0, heights)
        count = min(GROWTH * columns, int((outside > 1 + tolerance / 2).sum()))
        if excess <= tolerance or steps <= 0 or count == 0:
            return Design(best.weights, best.excess, passes)
        added = outside.topk(count).indices
        chosen = torch.cat([chosen, added])
        weights = torch.cat([inner.weights, inner.weights.new_zeros(count)])


def _inverse_root(matrix: Tensor, weights: Tensor) -> Tensor:
    """Return T lower triangular with TᵀT = M⁻¹."""
    # M = LLᵀ gives M⁻¹ = L⁻ᵀL⁻¹, so T = L⁻¹.
    factor = torch.linalg.cholesky(gram(matrix, weights.sqrt()))
    identity = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
    inverse: Tensor = torch.linalg.solve_triangular(factor, identity, upper=False)
    return inverse


class _Ascent:
    """The steps of Wolfe and Atwood on all rows of a matrix of moderate height."""

    def __init__(self, rows: Tensor, weights: Tensor) -> None:
        self.rows, self.weights = rows, weights
        self._refresh()

    def _refresh(self) -> None:
        root = _inverse_root(self.rows, self.weights)
        self.inverse = root.T @ root
        self.heights = squared_norms(self.rows, root)

    def run(self, tolerance: float, steps: int) -> int:
        """Step until all heights are at most 1 + `tolerance`; return the steps left."""
        period = max(REFRESH, self.rows.shape[1])
        for done in range(steps):
            if done % period == period - 1:  # updates of M⁻¹ accumulate rounding errors
                self._refresh()
            high = int(self.heights.argmax())
            excess = float(self.heights[high]) - 1
            if excess <= tolerance:
                self._refresh()  # confirm with heights free of accumulated errors
                if float(self.heights.max()) <= 1 + tolerance:
                    return steps - done
                continue
            # Take whichever row violates the optimality conditions more: one outside, or one inside
            # that still carries weight.
            inside = torch.where(self.weights > 0, self.heights, torch.inf)
            low = int(inside.argmin())
            self._step(high if excess >= 1 - float(inside[low]) else low)
        return 0

    def _step(self, row: int) -> None:
        """Move the weight of one row by the amount that makes det M largest."""
        dimension = self.rows.shape[1]
        height, share = float(self.heights[row]), float(self.weights[row]) / dimension
        # In shares of the total weight: M ← (1 − λ)M + λ·d·aaᵀ, and κ = d·height.
        kappa = dimension * height
        least = -share / (1 - share) if share < 1 else -0.5  # step at which the weight becomes zero
        # det M is largest at λ = (height − 1)/(κ − 1).
        step = (height - 1) / (kappa - 1) if kappa > 1 else least
        step = max(step, least)
        # Sherman–Morrison update of M⁻¹, and of all heights through it.
        image = self.inverse @ self.rows[row]
        scale = dimension * step / (1 - step + step * kappa)
        self.inverse.addr_(image, image, alpha=-scale).div_(1 - step)
        self.heights.sub_(scale * (self.rows @ image).square_()).div_(1 - step)
        dropped = step == least
        self.weights.mul_(1 - step)
        self.weights[row] = 0.0 if dropped else float(self.weights[row]) + dimension * step
