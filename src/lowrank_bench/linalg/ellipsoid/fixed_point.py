"""Fixed points of the Lewis weight map in a few evaluations, with a proven safeguard.

The guaranteed step is u ← (1 − θ)u + θF(u). For |slope| < 1 (p < 4), F is a contraction in the
maximum norm with factor |slope|, so the step is one too, with some factor below one. For
slope ≤ −1 (p ≥ 4), θ = 1/(1 − slope) = 2/p sets w to the leverages τ of W^{1/2−1/p}A. With
v = w^{1−2/p} this ascends log det(Aᵀ diag(v) A) subject to Σ v^{p/(p−2)} = d, a concave problem
whose only maximum is at the Lewis weights. The determinant is a sum of monomials in v, so its
logarithm is convex in log v. Therefore Σ τ_i log v_i bounds its change from below, and the step
maximises that bound. Each step gains at least (1 − 2/p)·Σ τ_i log(τ_i/w_i) and the total gain
is finite, so τ → w from any start. Near the limit each step multiplies the error by at most
1 − 2/p.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

DEPTH = 6  # points that Anderson mixing combines
PROGRESS = 0.9  # a trial step must lower the residual to this fraction of the best
SCALAR_STEPS = 5  # Newton steps of each scalar equation


@dataclass(frozen=True)
class Evaluation:
    """The map at a point u.

    Attributes
    ----------
    image
        Tensor F(u), of the shape of u.
    share
        Tensor in (0, 1]: the leverage of each entry; `slope`·share is ∂F_i/∂u_i.
    extra
        Data that the caller wants back for the final point.
    error
        Bound on the rounding error of an entry of `image`, added to the residual.
    """

    image: Tensor
    share: Tensor
    extra: Any = None
    error: float = 0.0


@dataclass(frozen=True)
class Solution:
    """The point with the smallest residual.

    Attributes
    ----------
    point
        Tensor u.
    following
        Tensor: the next point of the search, which is better but has an unknown residual.
    extra
        `Evaluation.extra` at `point`.
    residual
        max |F(u) − u|, plus the bound on its rounding error.
    evaluations
        Number of evaluations of F.
    converged
        Whether `residual` is within the tolerance.
    """

    point: Tensor
    following: Tensor
    extra: Any
    residual: float
    evaluations: int
    converged: bool


def damping_of(slope: float) -> float:
    """Return θ such that u ↦ (1 − θ)u + θF(u) converges from any start; see the module."""
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

    F must have the structure of the Lewis weight map for log w, with slope = 1 − p/2: its Jacobian
    is `slope`·S, where S is stochastic, self-adjoint in the inner product weighted by the shares,
    has its spectrum in [0, 1], and has the shares on its diagonal.

    The docstring of this module states the guaranteed step and why it converges. Each trial step
    replaces S by its diagonal, for which every entry is solved exactly, and by its constant mode,
    and combines the last steps by Anderson mixing (1965). It is accepted only if the residual
    falls to 0.9 of the best so far (or to the guaranteed factor, if that is larger). Otherwise the
    search returns to the best point and takes guaranteed steps until the residual falls enough.

    Parameters
    ----------
    patient
        False to stop after a step that gains too little instead of going back: the right choice if
        rounding limits the residual.

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
    point, trial = start, True  # trial: `point` came from a trial step, not a guaranteed one
    for count in range(1, limit + 1):
        value = evaluate(point)
        gap = value.image - point
        residual = float(gap.abs().max()) + value.error
        # Enough progress: remember the point and try a fast step from it.
        if best is None or residual <= enough * best.residual:
            history.append((point, _newton_step(gap, value.share, slope), value.share))
            ahead = _mix(history)
            done = residual <= tolerance
            best = Solution(point, ahead, value.extra, residual, count, done)
            if done:
                return best
            guaranteed = point + damping * gap
            point, trial = ahead, True
        elif patient and trial:  # the trial failed: back to the best point, and a safe step
            history.clear()
            point, trial = guaranteed, False
        elif patient and slope <= -1:  # safe steps may increase the residual: keep going
            point = point + damping * gap
        else:  # even the guaranteed step does not gain: only rounding error is left
            break
    assert best is not None, "the first evaluation always sets a best point"
    return Solution(best.point, best.following, best.extra, best.residual, count, False)


def _newton_step(gap: Tensor, share: Tensor, slope: float) -> Tensor:
    """Solve F(u + x) = u + x with S replaced by its diagonal and its constant mode."""
    weight = share / share.sum()
    common = weight @ gap
    # S keeps constants, so their part of the gap is divided by 1 − slope.
    step = _diagonal_step(gap - common, share, slope)
    return step - weight @ step + common / (1 - slope)


def _diagonal_step(gap: Tensor, share: Tensor, slope: float) -> Tensor:
    """Solve x = gap + F_i(u + x e_i) − F_i(u) for each entry i separately.

    Let τ be the share of the entry. Its weight in the Gram matrix grows by e^{kx}, k = 1 − 2/p, so
    its image changes by −(p/2)·log(1 − τ + τe^{kx}) by the Sherman–Morrison formula. The equation
    is convex and increasing in x, so Newton's method converges from any start.
    """
    if slope == 0:
        return gap
    half, power = 1 - slope, -slope / (1 - slope)
    rest, log_share = torch.log1p(-share), share.log()
    step = gap / (1 - slope * share)  # the linearised solution
    for _ in range(SCALAR_STEPS):
        # total = log(1 − τ + τe^{kx}), without overflow
        grown = log_share + power * step
        total = torch.logaddexp(rest, grown)
        value = step - gap + half * total
        step = step - value / (1 - slope * (grown - total).exp())
    return step


def _mix(history: deque[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Return the Anderson combination of the last points whose combined step is smallest."""
    *earlier, (point, step, share) = history
    if not earlier:
        return point + step
    # Minimise ‖step − Σ w_j (step − step_j)‖ in the inner product weighted by the shares.
    metric = share.sqrt()
    slopes = torch.stack([(step - past) * metric for _, past, _ in earlier], dim=1)
    moves = torch.stack([point - past for past, _, _ in earlier], dim=1)
    # Unit columns keep the normal equations well scaled; nearly dependent ones are cut off.
    length = torch.linalg.vector_norm(slopes, dim=0)
    length = torch.where(length > 0, length, 1.0)
    slopes = slopes / length
    normal = torch.linalg.pinv(slopes.T @ slopes, rtol=1e-12, hermitian=True)
    weights = normal @ (slopes.T @ (step * metric)) / length
    changes = torch.stack([step - past for _, past, _ in earlier], dim=1)
    mixed: Tensor = point + step - (moves + changes) @ weights
    return mixed
