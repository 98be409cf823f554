"""Fixed points of the map of Lewis weights in a few evaluations, with a proven safeguard.

The guaranteed step is u ← (1 − θ)u + θF(u). For |slope| < 1 (p < 4) F contracts the maximum
norm by |slope|, hence so does the step with some factor below one. For slope ≤ −1 (p ≥ 4),
θ = 1/(1 − slope) = 2/p gives w ← the leverages τ of W^{1/2−1/p}A. With v = w^{1−2/p} this
climbs log det(Aᵀ diag(v) A) over Σ v^{p/(p−2)} = d, a concave problem whose only maximum has
the Lewis weights: the logarithm of the determinant, a sum of monomials in v, is convex in
log v, so Σ τ_i log v_i bounds its change from below, and the step maximises that bound. Each
step gains at least (1 − 2/p)·Σ τ_i log(τ_i/w_i), the sum of the gains is finite, and so τ → w
from any start; near the limit each step multiplies the error by 1 − 2/p or less.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

DEPTH = 6
PROGRESS = 0.9
SCALAR_STEPS = 5


@dataclass(frozen=True)
class Evaluation:
    """The map at a point u.

    Attributes
    ----------
    image
        Tensor F(u), of the shape of u.
    share
        Tensor in (0, 1]: each entry's leverage, whose multiple by `slope` is its own derivative.
    extra
        What the caller wants back for the final point.
    error
        Bound of the rounding error of an entry of `image`; it counts as residual.
    """

    image: Tensor
    share: Tensor
    extra: Any = None
    error: float = 0.0


@dataclass(frozen=True)
class Solution:
    """The last point with the least residual.

    Attributes
    ----------
    point
        Tensor u.
    following
        Tensor: where the search would have gone next, a better point with an unknown residual.
    extra
        What the evaluation at `point` carried.
    residual
        max |F(u) − u|, plus the bound of its rounding error.
    evaluations
        How often F was computed.
    converged
        Whether `residual` met the tolerance.
    """

    point: Tensor
    following: Tensor
    extra: Any
    residual: float
    evaluations: int
    converged: bool


def damping_of(slope: float) -> float:
    """Return θ such that u ↦ (1 − θ)u + θF(u) converges from any start; see `solve`."""
    if slope >= 0:
        return 1.0
    return 1 / (1 - slope / 2) if slope > -1 else 1 / (1 - slope)


def solve(
    evaluate: Callable[[Tensor], Evaluation],
    start: Tensor,
    slope: float,
    tolerance: float,
    limit: int,
    patient: bool = True,
) -> Solution:
    """Find u with max |F(u) − u| ≤ `tolerance`.

    F must be like the map of the logarithms of ℓp Lewis weights, slope = 1 − p/2: its Jacobian is
    `slope`·S with a stochastic S that is self-adjoint in the inner product of the shares, whose
    spectrum is in [0, 1] and whose diagonal is the shares.

    The guaranteed step and why it converges: see the top of this file.

    Each trial step solves the equation with S replaced by its diagonal, exactly and entry by
    entry, and by its constant mode, and mixes the last steps as Anderson (1965) does. It is kept
    only when the residual falls to 0.9 of the best so far (or to the guaranteed factor, when that
    is larger); otherwise the search goes back and takes guaranteed steps until it does.

    Parameters
    ----------
    patient
        Whether to go back and on after a step that gains too little, or to stop there, as is
        right where rounding limits the residual.

    References
    ----------
    Cohen and Peng, "ℓp row sampling by Lewis weights", STOC 2015, section 3 (p < 4).
    Cohen, Cousins, Lee, Yang, "A near-optimal algorithm for approximating the John ellipsoid",
    COLT 2019, whose iteration is the step for p ≥ 4 at p = ∞.
    """
    damping = damping_of(slope)
    enough = max(PROGRESS, 1 - damping * (1 - abs(slope))) if slope > -1 else PROGRESS
    history: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=DEPTH)
    best: Solution | None = None
    point, trial = start, True
    for count in range(1, limit + 1):
        value = evaluate(point)
        gap = value.image - point
        residual = float(gap.abs().max()) + value.error
        if best is None or residual <= enough * best.residual:
            history.append((point, _newton_step(gap, value.share, slope), value.share))
            ahead = _mix(history)
            done = residual <= tolerance
            best = Solution(point, ahead, value.extra, residual, count, done)
            if done:
                return best
            guaranteed = point + damping * gap
            point, trial = ahead, True
        elif patient and trial:
            history.clear()
            point, trial = guaranteed, False
        elif patient and slope <= -1:
            point = point + damping * gap
        else:  # not even the guaranteed step gains: rounding is all that is left
            break
    return Solution(best.point, best.following, best.extra, best.residual, count, False)


def _newton_step(gap: Tensor, share: Tensor, slope: float) -> Tensor:
    """Solve F(u + x) = u + x with S replaced by its diagonal and its constant mode."""
    weight = share / share.sum()
    common = weight @ gap
    step = _own_step(gap - common, share, slope)
    return step - weight @ step + common / (1 - slope)


def _own_step(gap: Tensor, share: Tensor, slope: float) -> Tensor:
    """Solve x = gap + F_i(u + x e_i) − F_i(u) for each entry i alone.

    With τ its share, its weight in the Gram matrix grows by e^{kx}, k = 1 − 2/p, and by Sherman
    and Morrison its image changes by −(p/2)·log(1 − τ + τe^{kx}). The equation is convex and
    increasing in x, so Newton's method finds the root from any start.
    """
    if slope == 0:
        return gap
    half, power = 1 - slope, -slope / (1 - slope)
    rest, own = torch.log1p(-share), share.log()
    step = gap / (1 - slope * share)
    for _ in range(SCALAR_STEPS):
        grown = own + power * step
        total = torch.logaddexp(rest, grown)
        value = step - gap + half * total
        step = step - value / (1 - slope * (grown - total).exp())
    return step


def _mix(history: deque[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Return Anderson's combination of the last points that makes their mixed step smallest."""
    *earlier, (point, step, share) = history
    if not earlier:
        return point + step
    metric = share.sqrt()
    slopes = torch.stack([(step - past) * metric for _, past, _ in earlier], dim=1)
    moves = torch.stack([point - past for past, _, _ in earlier], dim=1)
    length = torch.linalg.vector_norm(slopes, dim=0)
    length = torch.where(length > 0, length, 1.0)
    slopes = slopes / length
    normal = torch.linalg.pinv(slopes.T @ slopes, rtol=1e-12, hermitian=True)
    weights = normal @ (slopes.T @ (step * metric)) / length
    changes = torch.stack([step - past for _, past, _ in earlier], dim=1)
    return point + step - (moves + changes) @ weights
