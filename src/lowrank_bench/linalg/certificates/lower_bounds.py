"""Lower bounds on the error of every matrix of rank k, in several norms.

Norms of an error E, n×d with rows e_i, for an exponent p: by rows (Σ_i ‖e_i‖₂^p)^{1/p}, which is
ℓ2,1 for p = 1, and by entries (Σ_ij |e_ij|^p)^{1/p}. For p ≤ 2 the norm by entries is at least the
norm by rows, which is at least ‖E‖_F. All bounds follow from one fact: for B of rank at most k
there are d − k orthonormal x_j with B x_j = 0, so E = A − B has E x_j = A x_j.

Every bound is smaller than its formula by what rounding in float64 can change (`rounding`).
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.certificates.convex import relaxed
from lowrank_bench.linalg.certificates.rounding import Rows, gamma
from lowrank_bench.linalg.certificates.spectral import Tails
from lowrank_bench.linalg.ellipsoid.lewis import LewisWeights, lewis_weights

# Entries above which the ellipsoid bound, whose weights take seconds, is left out where the convex
# bound is computed: on tables of this size it was never the larger one.
LARGE = 2**22


class LowerBounds:
    """Lower bounds for one matrix, computed on first use and cached.

    Parameters
    ----------
    matrix
        Tensor A, n×d, finite; the bounds are computed in float64, one block of rows at a time.
    lewis
        Lewis weights of A that are already known; others are computed.

    Attributes
    ----------
    unit
        The unit of all bounds: 1, or a power of two for entries beyond 1e±60.
    """

    def __init__(self, matrix: Tensor, *lewis: LewisWeights) -> None:
        self._rows = Rows(matrix)
        self.unit = self._rows.unit
        self._forms = {weights.p: _in_unit(weights, self.unit) for weights in lewis}
        self._tails = Tails(self._rows)
        self._axes: dict[float, Tails] = {}
        self._convex: dict[tuple[float, int, int], float] = {}

    def frobenius(self, rank: int) -> float:
        """Return the smallest ‖A − B‖_F over rank(B) ≤ k, which is (Σ_{j>k} σ_j²)^{1/2}.

        Eckart and Young, Psychometrika 1 (1936). Computes the Gram matrix once.
        """
        return self._tails(rank)

    def form(self, p: float) -> LewisWeights:
        """Return the Lewis weights for p, computed once."""
        if p not in self._forms:
            matrix = self._rows.matrix.double()
            matrix = matrix if self.unit == 1.0 else matrix / self.unit
            self._forms[p] = lewis_weights(matrix, p, exact=True)
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
            self._axes[p] = Tails(Rows(lewis.root))
        height, width = self._rows.shape
        rounding, unit = lewis.rounding, Rows(lewis.root).unit
        tail = max(self._axes[p](rank) * unit - rounding.root, 0.0) / slack(lewis)
        tail *= 1 - gamma(height)
        if not tail > 0:
            return 0.0, 0.0
        # The weights belong to a matrix near A: ‖A − A'‖_F in the norms by rows and by entries.
        near = rounding.matrix * height ** max(1 / p - 0.5, 0.0)
        rows = entries = tail
        if p > 2:  # power means over the weights, the d − k directions and the d columns of a row
            power = 1 / p - 0.5
            rows = tail * (float(lewis.weights.sum()) * (width - rank)) ** power
            entries = rows * width**power
        wide = near * width ** max(1 / p - 0.5, 0.0)
        return max(rows - near, 0.0), max(entries - wide, 0.0)

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
        Costs up to 3·n·d² operations and two eigendecompositions per step and rank, for a few
        steps.
        """
        key = (p, rank, groups)
        if key not in self._convex:
            form = self._tails.gram()[0]
            # `tensor_split` makes the groups as equal as possible, so that none is much narrower.
            parts = torch.arange(len(form)).tensor_split(groups)
            spans = [slice(int(part[0]), int(part[-1]) + 1) for part in parts]
            bounds = [relaxed(self._rows, form[s, s], rank, p, s) for s in spans]
            total = sum(bound**p for bound in bounds) ** (1 / p)
            self._convex[key] = total * (1 - gamma(groups))
        return self._convex[key]

    def rows(self, rank: int, p: float, thorough: bool = False) -> tuple[float, str]:
        """Return the best bound by rows, and its name."""
        # ‖x‖_p ≥ ‖x‖₂ for p ≤ 2; above, the power mean over the n rows.
        bounds = self._spectral(rank, p, self._rows.shape[0])
        if thorough and p <= 2:
            bounds["convex"] = self.convex(rank, p)
        if self._needs_ellipsoid(p, thorough):
            bounds["ellipsoid"] = self.ellipsoid(rank, p)[0]
        return _best(bounds)

    def entries(self, rank: int, p: float, thorough: bool = False) -> tuple[float, str]:
        """Return the best bound by entries, and its name."""
        rows, columns = self._rows.shape
        bounds = self._spectral(rank, p, rows * columns)
        if thorough and p <= 2:
            bounds["convex"] = self.convex(rank, p)
            groups = columns // (3 * rank)  # best for rows without structure
            if groups > 1:
                bounds["convex in groups"] = self.convex(rank, p, groups)
        if self._needs_ellipsoid(p, thorough):
            bounds["ellipsoid"] = self.ellipsoid(rank, p)[1]
        return _best(bounds)

    def _spectral(self, rank: int, p: float, count: int) -> dict[str, float]:
        power = min(0.0, 1 / p - 0.5)
        return {"svd": self.frobenius(rank) * float(count) ** power * (1 - gamma(0))}

    def _needs_ellipsoid(self, p: float, thorough: bool) -> bool:
        return not (thorough and p <= 2 and self._rows.matrix.numel() > LARGE)


def _in_unit(lewis: LewisWeights, unit: float) -> LewisWeights:
    """Return the weights for A / unit."""
    if unit == 1.0:
        return lewis
    old = lewis.rounding
    rounding = replace(old, matrix=old.matrix / unit, root=old.root / unit)
    return replace(lewis, root=lewis.root / unit, rounding=rounding)


def slack(lewis: LewisWeights) -> float:
    """Return the largest factor by which √(xᵀMx) ≤ ‖Ax‖_p (≥ for p ≥ 2) can be violated.

    Weights with |log w_i − log (a_iᵀ M⁻¹ a_i)^{p/2}| ≤ ρ enter the proof as e^ρ to the power
    |p − 2|/p, in a sum of p-th powers. For p = ∞, a_iᵀ M⁻¹ a_i ≤ e^ρ. Rounding of M and of its
    inverse comes on top.
    """
    power = abs(lewis.p - 2) / lewis.p**2 if lewis.p < math.inf else 0.5
    logarithm = lewis.residual * power + lewis.rounding.relative
    return math.exp(logarithm) if logarithm < 700 else math.inf


def _best(bounds: dict[str, float]) -> tuple[float, str]:
    """Return the largest bound, and its name; a bound that is not a number bounds nothing."""
    known = {name: bound if bound == bound else 0.0 for name, bound in bounds.items()}
    name = max(known, key=lambda key: known[key])
    return known[name], name
