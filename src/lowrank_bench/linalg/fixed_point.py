"""Fixed points of contractions in a few evaluations, with a safeguard that keeps the guarantee."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

DEPTH = 6
PROGRESS = 0.9


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
    """

    image: Tensor
    share: Tensor
    extra: Any = None


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
        max |F(u) − u|.
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


def solve(
    evaluate: Callable[[Tensor], Evaluation],
    start: Tensor,
    slope: float,
    tolerance: float,
    limit: int,
    patient: bool = True,
) -> Solution:
    """Find u with max |F(u) − u| ≤ `tolerance`.

    F must be like the map of the logarithms of Lewis weights: its Jacobian is `slope`·S, |slope|
    < 1, with a stochastic S that is self-adjoint in the inner product of the shares, whose
    spectrum is in [0, 1] and whose diagonal is the shares. F then contracts the maximum norm by
    |slope|.

    Each step solves the Newton equation with S replaced by its diagonal and its constant mode,
    and mixes the last steps as Anderson (1965) does. Such a step is kept only when the residual
    falls to 0.9 of the best so far (or to the guaranteed factor, when that is larger); otherwise
    the search goes back and takes the damped step (1 − θ)u + θF(u), which provably shrinks it.
    So it converges from any start, at worst at half the speed of the damped iteration.

    Parameters
    ----------
    patient
        Whether to go back and on after a step that gains too little, or to stop there, as is
        right where rounding limits the residual.
    """
    damping = 1.0 if slope >= 0 else 1 / (1 - slope / 2)
    enough = max(PROGRESS, 1 - damping * (1 - abs(slope)))
    history: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=DEPTH)
    best: Solution | None = None
    point = start
    for count in range(1, limit + 1):
        value = evaluate(point)
        gap = value.image - point
        residual = float(gap.abs().max())
        if best is None or residual <= enough * best.residual:
            history.append((point, _newton_step(gap, value.share, slope), value.share))
            ahead = _mix(history)
            done = residual <= tolerance
            best = Solution(point, ahead, value.extra, residual, count, done)
            damped = point + damping * gap
            if done:
                return best
            point = ahead
        elif patient and point is not damped:
            history.clear()
            point = damped
        else:  # not even the guaranteed step gains: rounding is all that is left
            break
    return Solution(best.point, best.following, best.extra, best.residual, count, False)


def _newton_step(gap: Tensor, share: Tensor, slope: float) -> Tensor:
    """Solve (I − slope·S) x = gap with S replaced by its diagonal and its constant mode."""
    weight = share / share.sum()
    common = weight @ gap
    step = (gap - common) / (1 - slope * share)
    return step - weight @ step + common / (1 - slope)


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
