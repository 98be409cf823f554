"""Factors with a small entrywise ℓp error, by alternating reweighted least squares."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank_bench.linalg.units import unit_of

# The smoothing ε in units of the median of |A|. It falls from FIRST to MIDDLE during most sweeps;
# below MIDDLE, the weights tie each row to the entries that it already fits.
FIRST, MIDDLE, LAST = 1.0, 1e-2, 1e-6
SHARE = 0.8  # fraction of the sweeps that go from FIRST to MIDDLE
CG_STEPS = 5  # conjugate gradient steps per half sweep
SMALL = 1e8  # n·d·k up to which float32 saves no time
BLOCK = 2**22  # entries of a block of rows: 32 MB for each temporary
NOISE = 1e-14  # an error below this fraction of max |A| is rounding


@dataclass(frozen=True)
class Fit:
    """A matrix n×d as a product of factors, and the course of its computation.

    Attributes
    ----------
    left
        Tensor n×k, float64.
    right
        Tensor k×d, float64, with orthonormal rows.
    error
        (Σ|entry|^p)^{1/p} of A − left·right.
    history
        The smoothed objective Σ(entry² + ε²)^{p/2} for A scaled to entries of at most one, after
        each half sweep; non-increasing.
    sweeps
        Number of sweeps.
    """

    left: Tensor
    right: Tensor
    error: float
    history: tuple[float, ...]
    sweeps: int


def alternate(
    matrix: Tensor,
    basis: Tensor,
    p: float,
    sweeps: int = 30,
    tolerance: float = 1e-5,
    both: bool = True,
) -> Fit:
    """Lower ‖A − LR‖_{p,p} over both factors, starting from a projection onto a subspace.

    With E = A − LR, the objective Σ(e² + ε²)^{p/2} is majorized by a quadratic function of E with
    the weights (e² + ε²)^{p/2−1} that touches it at the current E. A half sweep lowers this
    function over L or over R, and thereby the objective. A smaller ε lowers the objective too, so
    it never increases. The iterate with the smallest unsmoothed error is returned, which may be
    the start.

    The weighted k×k systems, one per row, are never formed: a few conjugate gradient steps run on
    all rows at once, with products of n×d by d×k. A sweep takes about 8·n·d·k·(`CG_STEPS` + 2)
    operations, most of them in float32 if n·d·k exceeds `SMALL`; residuals and factors are
    float64. Memory: a scaled copy of A, both factors and blocks of rows.

    Parameters
    ----------
    matrix
        Tensor A, n×d, float64, finite.
    basis
        Tensor d×k with orthonormal columns: the start is the projection A·basis·basisᵀ.
    p
        Exponent, 1 ≤ p < 2.
    sweeps
        Largest number of sweeps.
    tolerance
        A stage of ε ends after a sweep that lowers the objective by at most this fraction.
    both
        False to fix R at `basis`: an ℓp regression for each row, which is convex.

    References
    ----------
    Ke and Kanade, "Robust L1 norm factorization in the presence of outliers and missing data",
    CVPR 2005, for the alternation; Chartrand and Yin, "Iteratively reweighted algorithms for
    compressive sensing", ICASSP 2008, for the decreasing ε.
    """
    unit = unit_of(matrix)
    matrix = matrix / unit
    search = _Search(matrix, basis, p)
    floor = NOISE * matrix.numel() ** (1 / p)
    done = 0
    if search.error > floor:  # otherwise the start is exact up to rounding
        # ε falls relative to a typical entry: early stages are near least squares.
        scale = _median(matrix)
        for stage in _stages(sweeps):
            for part in stage:
                before, after = search.sweep(part * scale, both)
                done += 1
                if before - after <= tolerance * before:
                    break
    left, right = search.best
    return Fit(left * unit, right.T.contiguous(), search.error * unit, tuple(search.history), done)


class _Search:
    """The current factors: A ≈ left·basisᵀ, where basis has orthonormal columns."""

    def __init__(self, matrix: Tensor, basis: Tensor, p: float) -> None:
        self.matrix, self.p = matrix, p
        self.left, self.basis = matrix @ basis, basis
        small = matrix.numel() * basis.shape[1] <= SMALL
        self.precision = torch.float64 if small else torch.float32
        self.history: list[float] = []
        self.best, self.error = (self.left, basis), float("inf")
        gaps = (rows - self.left[part] @ basis.T for part, rows in _blocks(matrix))
        self._keep(sum(float(gap.abs().pow(p).sum()) for gap in gaps))

    def _keep(self, power_sum: float) -> None:
        error = power_sum ** (1 / self.p)
        if error < self.error:
            self.best, self.error = (self.left, self.basis), error

    def sweep(self, epsilon: float, both: bool) -> tuple[float, float]:
        """Lower the objective over L, then over R; return it before and after."""
        self.left, before, after, error = self._half(self.matrix, self.left, self.basis, epsilon)
        self._keep(error)
        if both:
            # The other half fits Aᵀ. In an orthonormal basis, the systems are as well conditioned
            # as their weights.
            columns, change = torch.linalg.qr(self.left)
            right = self.basis @ change.T
            right, _, after, error = self._half(self.matrix.T, right, columns, epsilon)
            self.basis, change = torch.linalg.qr(right)
            self.left = columns @ change.T
            self._keep(error)
        return before, after

    def _half(
        self, matrix: Tensor, factor: Tensor, basis: Tensor, epsilon: float
    ) -> tuple[Tensor, float, float, float]:
        """Lower the objective of `matrix` − factor·basisᵀ over each row of `factor`.

        Return the factor, the objective before and after, and Σ|e|^p after.
        """
        updated = factor.clone()
        sums = matrix.new_zeros(3)
        for part, rows in _blocks(matrix):
            # Rows are independent: a step for each, and what it would make of the residual.
            residual = rows - factor[part] @ basis.T
            step = _steps(residual, basis, epsilon, self.p, self.precision)
            trial = residual - step @ basis.T
            old, new = (_smoothed(gap, epsilon, self.p) for gap in (residual, trial))
            better = new < old  # rounding can spoil a step; then the row keeps its old factor
            updated[part] += torch.where(better[:, None], step, 0.0)
            least = torch.where(better[:, None], trial, residual).abs().pow(self.p).sum()
            sums += torch.stack([old.sum(), torch.where(better, new, old).sum(), least])
        before, after, error = sums.tolist()
        self.history.append(after)
        return updated, before, after, error


def _steps(
    residual: Tensor, basis: Tensor, epsilon: float, p: float, precision: torch.dtype
) -> Tensor:
    """Return S with a row s for each row e of the residual that lowers Σ w (e − basis·s)².

    The weights are those of the quadratic majorizer of Σ(e² + ε²)^{p/2}. Conjugate gradients
    from zero lower it in each step.
    """
    # A common factor of the weights does not change the solution: (1 + (e/ε)²)^{p/2−1} ≤ 1.
    weights = (1 + (residual / epsilon).square()).pow(p / 2 - 1).to(precision)
    basis = basis.to(precision)
    gradient = (weights * residual.to(precision)) @ basis
    solution, direction = torch.zeros_like(gradient), gradient
    square = gradient.square().sum(dim=1, keepdim=True)
    for _ in range(CG_STEPS):
        # BᵀWB times the direction, for every row with its own W.
        image = (weights * (direction @ basis.T)) @ basis
        length = _ratio(square, (direction * image).sum(dim=1, keepdim=True))
        solution = solution + length * direction
        gradient = gradient - length * image
        previous, square = square, gradient.square().sum(dim=1, keepdim=True)
        direction = gradient + _ratio(square, previous) * direction
    return solution.double()


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    return torch.where(below > 0, above / below, 0.0)


def _smoothed(residual: Tensor, epsilon: float, p: float) -> Tensor:
    return (residual.square() + epsilon**2).pow(p / 2).sum(dim=1)


def _blocks(matrix: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield the slices of blocks of rows, with the rows."""
    size = max(1, BLOCK // max(1, matrix.shape[1]))
    for start in range(0, len(matrix), size):
        part = slice(start, start + size)
        yield part, matrix[part].contiguous()


def _median(matrix: Tensor) -> float:
    """Return the median of |A| over its nonzero entries."""
    entries = matrix.abs().flatten()
    return float(entries[entries > 0].median())


def _stages(sweeps: int) -> tuple[list[float], list[float]]:
    """Return ε of each sweep in units of the median: slowly to `MIDDLE`, then fast to `LAST`."""
    first = max(1, round(SHARE * sweeps))
    return _fall(FIRST, MIDDLE, first), _fall(MIDDLE, LAST, sweeps - first + 1)[1:]


def _fall(start: float, end: float, count: int) -> list[float]:
    return [start * (end / start) ** (i / max(1, count - 1)) for i in range(count)]
