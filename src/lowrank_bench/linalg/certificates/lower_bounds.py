"""Lower bounds on the error of every matrix of rank k, in several norms.

Norms of an error E, n×d with rows e_i, for an exponent p: by rows (Σ_i ‖e_i‖₂^p)^{1/p}, which is
ℓ2,1 for p = 1, and by entries (Σ_ij |e_ij|^p)^{1/p}. For p ≤ 2 the norm by entries is at least the
norm by rows, which is at least ‖E‖_F. All bounds follow from one fact: for B of rank at most k
there are d − k orthonormal x_j with B x_j = 0, so E = A − B has E x_j = A x_j.
"""

import math

import torch
from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.ellipsoid.lewis import LewisWeights, lewis_weights
from lowrank_bench.linalg.gram import (
    CHUNK,
    gram,
    largest_entry,
    numerical_rank,
    power_of_two,
    right_singular,
)

STEPS = 30  # step limit of the convex bound; every step gives a valid bound
GAP = 1e-2  # stop when no bound of this kind can be larger by more than this fraction
FLOOR = 1e-7  # fraction of the largest length below which lengths count as equal


class LowerBounds:
    """Lower bounds for one matrix, computed on first use and cached.

    Parameters
    ----------
    matrix
        Tensor A, n×d, finite; the bounds are computed in float64.
    lewis
        Lewis weights of A that are already known; others are computed.
    """

    def __init__(self, matrix: Tensor, *lewis: LewisWeights) -> None:
        self.matrix = matrix.double()
        self._forms: dict[float, LewisWeights] = {weights.p: weights for weights in lewis}
        self._axes: dict[float, Tensor] = {}
        self._convex: dict[tuple[float, int, int], float] = {}
        self._tails: Tensor | None = None

    def frobenius(self, rank: int) -> float:
        """Return the smallest ‖A − B‖_F over rank(B) ≤ k, which is (Σ_{j>k} σ_j²)^{1/2}.

        Eckart and Young, Psychometrika 1 (1936). Computes the singular values once.
        """
        if self._tails is None:
            values = right_singular(self.matrix)[0]
            # Values that are rounding error must not count as error of a lower rank.
            self._tails = _tails(values[: numerical_rank(values, *self.matrix.shape)])
        return _at(self._tails, rank)

    def form(self, p: float) -> LewisWeights:
        """Return the Lewis weights for p, computed once."""
        if p not in self._forms:
            self._forms[p] = lewis_weights(self.matrix, p)
        return self._forms[p]

    def ellipsoid(self, rank: int, p: float) -> tuple[float, float]:
        """Return bounds by rows and by entries from the Lewis form M for p.

        Let σ_j² be the eigenvalues of M and T² = Σ_{j>k} σ_j². For p ≤ 2 both norms of A − B are
        at least T: T² ≤ Σ_j x_jᵀ M x_j (Ky Fan), x_jᵀ M x_j ≤ ‖A x_j‖_p² = ‖E x_j‖_p² (Cohen and
        Peng), and by Minkowski's inequality (Σ_j ‖E x_j‖_p²)^{1/2} is at most the norm by rows.
        For p > 2, power means introduce the powers of Σw, d − k and d below. Computes the weights
        once; returns 0 if `lewis_weights` fails.
        """
        try:
            lewis = self.form(p)
        except LowRankError:
            return 0.0, 0.0
        if p not in self._axes:
            self._axes[p] = _tails(right_singular(lewis.root)[0])
        tail = _at(self._axes[p], rank) / slack(lewis)
        if p <= 2 or not tail:
            return tail, tail
        # p > 2: power means over the weights, the d − k directions and the d columns of a row.
        width, power = self.matrix.shape[1], 1 / p - 0.5
        rows = tail * (float(lewis.weights.sum()) * (width - rank)) ** power
        return rows, rows * width**power

    def convex(self, rank: int, p: float, groups: int = 1) -> float:
        """Return a bound by rows for p ≤ 2, or by entries if the columns form several groups.

        Let P be the projection onto the span of the x_j. The norm by rows is at least that of A P,
        and P is one of the symmetric Q with 0 ≤ Q ≤ I and trace d − k. Over these, Σ_i ‖Q a_i‖^p is
        convex, and its tangent at any Q is smallest at the eigenvectors of the d − k smallest
        eigenvalues, which gives a bound. Reweighted least squares search for the Q with the largest
        bound. A group of columns of a rank-k matrix has rank at most k, so the bounds of groups add
        up in the norm by entries.

        For p = 1 the relaxation is that of Lerman, McCoy, Tropp, Zhang, "Robust computation of
        linear models by convex relaxation", Foundations of Computational Mathematics 15 (2015).
        Costs 3·n·d² operations and two eigendecompositions per step and rank, for about ten steps.
        """
        key = (p, rank, groups)
        if key not in self._convex:
            # `tensor_split` makes the groups as equal as possible, so that none is much narrower.
            parts = self.matrix.tensor_split(groups, dim=1)
            total = sum(_relaxed(part, rank, p) ** p for part in parts)
            self._convex[key] = total ** (1 / p)
        return self._convex[key]

    def rows(self, rank: int, p: float, thorough: bool = False) -> tuple[float, str]:
        """Return the best bound by rows, and its name."""
        # ‖x‖_p ≥ ‖x‖₂ for p ≤ 2; above, the power mean over the n rows.
        bounds = {"svd": self.frobenius(rank) * len(self.matrix) ** min(0.0, 1 / p - 0.5)}
        bounds["ellipsoid"] = self.ellipsoid(rank, p)[0]
        if thorough and p <= 2:
            bounds["convex"] = self.convex(rank, p)
        return _best(bounds)

    def entries(self, rank: int, p: float, thorough: bool = False) -> tuple[float, str]:
        """Return the best bound by entries, and its name."""
        bounds = {"svd": self.frobenius(rank) * self.matrix.numel() ** min(0.0, 1 / p - 0.5)}
        bounds["ellipsoid"] = self.ellipsoid(rank, p)[1]
        if thorough and p <= 2:
            bounds["convex"] = self.convex(rank, p)
            groups = self.matrix.shape[1] // (3 * rank)  # best for rows without structure
            if groups > 1:
                bounds["convex in groups"] = self.convex(rank, p, groups)
        return _best(bounds)


def slack(lewis: LewisWeights) -> float:
    """Return the largest factor by which √(xᵀMx) ≤ ‖Ax‖_p (≥ for p ≥ 2) can be violated.

    Weights with |log w_i − log (a_iᵀ M⁻¹ a_i)^{p/2}| ≤ ρ enter the proof as e^ρ to the power
    |p − 2|/p, in a sum of p-th powers. For p = ∞, a_iᵀ M⁻¹ a_i ≤ e^ρ.
    """
    power = abs(lewis.p - 2) / lewis.p**2 if lewis.p < math.inf else 0.5
    return math.exp(lewis.residual * power)


def _tails(values: Tensor) -> Tensor:
    """Return (Σ_{j>k} values_j²)^{1/2} for k = 0, 1, …"""
    if not len(values):
        return values
    # Relative to the largest value, so that squares neither overflow nor vanish.
    peak = values[0]
    return (values / peak).square().flip(0).cumsum(0).flip(0).sqrt() * peak


def _at(tails: Tensor, rank: int) -> float:
    return float(tails[rank]) if rank < len(tails) else 0.0


def _best(bounds: dict[str, float]) -> tuple[float, str]:
    name = max(bounds, key=lambda key: bounds[key])
    return bounds[name], name


def _relaxed(matrix: Tensor, rank: int, p: float) -> float:
    """Return a lower bound on (Σ ‖Q a_i‖^p)^{1/p} over 0 ≤ Q ≤ I with trace d − k."""
    free = matrix.shape[1] - rank
    peak = largest_entry(matrix)
    if free <= 0 or peak == 0:
        return 0.0
    unit = power_of_two(peak)
    matrix = matrix / unit
    best: float = 0.0
    form = gram(matrix)
    for _ in range(STEPS):
        # Reweighted least squares: the best Q for the present weights, then new weights.
        relaxed = _waterfill(form, free)
        lengths = torch.cat(
            [torch.linalg.vector_norm(rows @ relaxed, dim=1) for rows in torch.split(matrix, CHUNK)]
        )
        # Q a_i / max(‖Q a_i‖, floor) has length at most one, so the tangent is valid.
        weights = lengths ** (p - 1) / lengths.clamp(min=float(lengths.max()) * FLOOR + 1e-300)
        form = gram(matrix, weights.sqrt())
        best = max(best, _tangent(form, relaxed, lengths, free, p))
        # The objective at any Q is an upper bound on its minimum.
        if best >= (1 - GAP) * float(lengths.pow(p).sum()):
            break
    bound: float = best ** (1 / p) * unit
    return bound


def _tangent(form: Tensor, relaxed: Tensor, lengths: Tensor, free: int, p: float) -> float:
    """Return the minimum of the tangent of Σ ‖Q a_i‖^p, minus a bound on rounding errors."""
    # Over 0 ≤ Q ≤ I with trace d − k, the minimum of a linear function is the sum of the d − k
    # smallest eigenvalues of its gradient.
    slope = form @ relaxed
    values = torch.linalg.eigvalsh((slope + slope.T) / 2)
    noise = 4 * len(values) * torch.finfo(values.dtype).eps * float(form.norm())
    linear = p * (float(values[:free].sum()) - noise)
    return linear - (p - 1) * float(lengths.pow(p).sum())


def _waterfill(form: Tensor, free: int) -> Tensor:
    """Return the Q that minimises trace(Q² form) over 0 ≤ Q ≤ I with trace `free`."""
    values, vectors = torch.linalg.eigh(form)
    # A floor keeps the reciprocals of zero eigenvalues finite.
    values = values.clamp(min=float(values[-1]) * 1e-14)
    # The eigenvalues of Q are min(1, level / value). If s of them are one, the trace determines the
    # level; the right s is the first whose level does not exceed the next value.
    inverse = (1 / values).flip(0).cumsum(0).flip(0)
    levels = (free - torch.arange(len(values)).to(values)) / inverse
    full = int((levels > values).to(torch.int8).argmin())
    shares = (levels[full] / values).clamp(max=1.0)
    filled: Tensor = (vectors * shares) @ vectors.T
    return filled
