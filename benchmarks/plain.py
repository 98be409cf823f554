"""A straightforward ellipsoid method, as first published, to compare against.

It keeps the shape matrix G of the ellipsoid {x : (x − c)ᵀG⁻¹(x − c) ≤ 1} and takes subgradients of
f(x) = ‖Ax‖₁ by forward differences, d + 1 evaluations of f each.
"""

from collections.abc import Callable

import numpy as np

Norm = Callable[[np.ndarray], float]


def forward_difference(norm: Norm, point: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Return the gradient of `norm` at a point, scaled so that its largest entry is one."""
    base = norm(point)
    slope = np.array([norm(point + step * unit) - base for unit in np.eye(len(point))])
    return slope / np.abs(slope).max()


def plain_ellipsoid(matrix: np.ndarray, limit: int) -> tuple[np.ndarray, int, bool]:
    """Return G, the number of gradients, and whether the inner test was met within `limit`.

    Parameters
    ----------
    matrix
        A, n×d, scaled so that the unit ball contains {x : ‖Ax‖₁ ≤ 1}.
    limit
        Maximum number of gradients. Where it is slow, the published code shrinks the ellipsoid and
        continues; this one stops, so its time is a lower bound.
    """
    d = matrix.shape[1]
    center, shape, gradients = np.zeros(d), np.eye(d), 0

    def norm(x: np.ndarray) -> float:
        return float(np.abs(matrix @ x).sum())

    while gradients < limit:
        if norm(center) > 1:  # the center lies outside the unit ball: halve the ellipsoid
            center, shape = _cut(center, shape, forward_difference(norm, center), 0.0)
        else:
            lengths, axes = np.linalg.eigh(shape)
            ends = axes * np.sqrt(lengths / (d + 1))
            points = np.concatenate([center + ends.T, center - ends.T])
            values = [norm(point) for point in points]
            worst = int(np.argmax(values))
            if values[worst] <= 1:
                return shape, gradients, True
            gradient = forward_difference(norm, points[worst])
            center, shape = _cut(center, shape, gradient, -1 / (d + 1))
        gradients += 1
    return shape, gradients, False


def _cut(
    center: np.ndarray, shape: np.ndarray, gradient: np.ndarray, depth: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest ellipsoid around the part beyond a plane at `depth` of its width."""
    d = len(center)
    moved = shape @ gradient / np.sqrt(gradient @ shape @ gradient)
    shift = (1 + d * depth) / (d + 1)
    narrowed = shape - 2 * shift / (1 + depth) * np.outer(moved, moved)
    return center - shift * moved, d**2 * (1 - depth**2) / (d**2 - 1) * narrowed
