"""Guarantees as numbers: how far factors can be from the best of their rank for a matrix."""

import math
from typing import Any

import torch
from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.certificates.lower_bounds import LowerBounds, slack
from lowrank_bench.linalg.certificates.rounding import gamma
from lowrank_bench.linalg.ellipsoid.lewis import LewisWeights
from lowrank_bench.linalg.factors import Approximation, ClusteredFactors, Factors
from lowrank_bench.linalg.units import largest_entry, unit_of

CHUNK = 2048  # rows per block
_norm = torch.linalg.vector_norm
NORMS = ("fro", "l1", "l21", "lp", "l2p")


def certify(
    matrix: Tensor,
    factors: Approximation,
    *,
    p: float = 1.0,
    bounds: LowerBounds | None = None,
    thorough: bool = False,
) -> dict[str, dict[str, Any]]:
    """Return the errors of an approximation, with bounds on how far from optimal they are.

    Parameters
    ----------
    matrix
        Tensor A, n×d, finite.
    factors
        The approximation of A.
    p
        Exponent of the norms `lp` and `l2p`, 1 ≤ p ≤ ∞; infinity for the largest entry or row.
    bounds
        The bounds for this matrix, to share their computations over ranks and methods.
    thorough
        Add the convex bounds, the tightest except in the Frobenius norm. They cost about as much as
        the factors of `lp` for each rank; the other bounds cost that much once.

    Returns
    -------
    dict
        For the norms `fro`, `l1` (sum of |entry|), `l21` (sum of row lengths), `lp` and `l2p`
        (the same two with exponent p): the `error`; `relative`, error / norm of A; `bound`, a
        lower bound for every matrix of the rank that the factors can have; `by`, its name; and
        `within`, error / bound: the error is at most this multiple of the smallest possible one.
        What rounding can change is added to the error and taken from the bound first, so that
        `within` is at least 1 and never too small. `bound` and `within` are None if no bound is
        known: the parts of a partition can have any total rank, except that k clusters of dimension
        j have rank at most k·j. `within` is also None if the bound is zero but the error is not,
        as for factors that are exact up to rounding.

    Raises
    ------
    LowRankError
        If the matrix is not a finite one of real numbers, the shapes differ, p is below one, or an
        error is too large for float64.
    """
    _check(matrix, factors, p)
    bounds = bounds or LowerBounds(matrix)
    unit = unit_of(matrix)
    errors, norms, margins = _norms(matrix, factors, p, unit)
    best = _best_bounds(bounds, rank_limit(factors), p, thorough)
    scale = bounds.unit / unit  # a power of two between units: exact
    bounded = {name: (least * scale, by) for name, (least, by) in best.items()}
    return {
        name: report_norm(error, norm, margin, unit, *bounded.get(name, (None, None)))
        for name, error, norm, margin in zip(NORMS, errors, norms, margins, strict=True)
    }


def _best_bounds(
    bounds: LowerBounds, rank: int | None, p: float, thorough: bool
) -> dict[str, tuple[float, str]]:
    """Return the largest known bound of each norm and its name; none without a limit on the rank.

    Factors without such a limit can equal the matrix.
    """
    if rank is None:
        return {}
    return {
        "fro": (bounds.frobenius(rank), "svd"),
        "l1": bounds.entries(rank, 1.0, thorough),
        "l21": bounds.rows(rank, 1.0, thorough),
        "lp": bounds.entries(rank, p, thorough),
        "l2p": bounds.rows(rank, p, thorough),
    }


def _check(matrix: Tensor, factors: Approximation, p: float) -> None:
    if not p >= 1:
        raise LowRankError(f"a certificate needs p >= 1, not p = {p:g}")
    if not isinstance(matrix, Tensor) or matrix.ndim != 2 or not matrix.is_floating_point():
        raise LowRankError(
            "a certificate needs the matrix as a tensor n×d of floating-point numbers"
        )
    if tuple(matrix.shape) != tuple(factors.shape):
        here, there = ("x".join(map(str, shape)) for shape in (matrix.shape, factors.shape))
        raise LowRankError(f"factors of a {there} matrix cannot be certified for a {here} one")
    if not math.isfinite(largest_entry(matrix)):
        raise LowRankError("a certificate needs a matrix without NaN and infinity")


def certificate_columns(certificate: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return a certificate as flat columns: relative errors, and their ratios to the bounds.

    Returns
    -------
    dict
        `rel_error_fro`, `rel_error_l1`, `rel_error_l21`, and `within_fro`, `within_l1`,
        `within_l21`: the error is at most this multiple of the smallest one of any matrix of that
        rank; None if no bound is known.
    """
    names = ("fro", "l1", "l21")
    columns = {f"rel_error_{name}": certificate[name]["relative"] for name in names}
    return columns | {f"within_{name}": certificate[name]["within"] for name in names}


def relative_errors(matrix: Tensor, factors: Approximation) -> dict[str, float]:
    """Return ‖A − B‖ / ‖A‖ in the Frobenius, the entrywise ℓ1 and the ℓ2,1 norm.

    Parameters
    ----------
    matrix
        Tensor A, n×d. Sums are computed in float64, one block of rows at a time.

    Returns
    -------
    dict
        `rel_error_fro`, `rel_error_l1` and `rel_error_l21` (sum of row lengths); 0 for a zero
        matrix, whose factors are zero too.
    """
    errors, norms, _ = _norms(matrix, factors, 1.0, unit_of(matrix))
    pairs = zip(NORMS[:3], errors, norms, strict=False)
    return {f"rel_error_{name}": error / norm if norm else 0.0 for name, error, norm in pairs}


def rank_limit(factors: Approximation) -> int | None:
    """Return the largest rank that such factors can represent, or None if there is no limit."""
    if isinstance(factors, Factors):
        limit = factors.rank + (factors.bias is not None)
    elif isinstance(factors, ClusteredFactors):
        limit = len(factors.right) * factors.rank
    else:
        return None
    return limit if limit < min(factors.shape) or isinstance(factors, Factors) else None


def proven_factors(lewis: LewisWeights, rank: int) -> dict[str, float]:
    """Return the worst-case ratio of the error of `lp` to the smallest error, on any matrix.

    Let E = A − A V_k V_kᵀ for the k leading eigenvectors of the Lewis form M, T the root of the sum
    of its other eigenvalues and r = Σw = rank(A). For p ≤ 2 every matrix of rank k has an error of
    at least T in both norms (`LowerBounds.ellipsoid`). On the other hand ‖E‖_{2,p} ≤ r^{1/p−1/2} T,
    by ‖e_i‖^p = w_i (‖e_i‖² w_i^{−2/p})^{p/2} and Jensen's inequality, and by Hölder's inequality
    in each row ‖E‖_{p,p} ≤ d^{1/p−1/2} ‖E‖_{2,p}. For p > 2 both steps hold with power means.

    Returns
    -------
    dict
        `l2p` and `lp`, for the norms of `certify`; they account for the accuracy of the weights.
    """
    total, width = float(lewis.weights.sum()), lewis.root.shape[1]
    power = abs(1 / lewis.p - 0.5)
    rows, entries = total**power, (total * width) ** power
    if lewis.p > 2:
        # Power means over the d − k remaining directions weaken both steps.
        free = max(width - rank, 1)
        rows, entries = rows * free ** (2 * power), entries * free**power
    return {"l2p": rows * slack(lewis) ** 2, "lp": entries * slack(lewis) ** 2}


def _norms(
    matrix: Tensor, factors: Approximation, p: float, unit: float
) -> tuple[list[float], list[float], list[float]]:
    """Return the norms `NORMS` of the error, of the matrix, and of the error's own rounding.

    All are in units of `unit`, a power of two near the largest entry: p-th powers stay in range.
    """
    reach = _Reach(factors, unit)
    # One result for all blocks: small ones kept between large temporaries would fragment memory.
    blocks = torch.zeros(3, len(NORMS), -(-len(matrix) // CHUNK), dtype=torch.float64)
    for start in range(0, len(matrix), CHUNK):
        rows = matrix[start : start + CHUNK].double() / unit
        gap = rows - reach.dense(start, start + CHUNK)
        margin = reach.rounding(start, start + CHUNK)
        for place, part in enumerate((gap, rows, margin)):
            blocks[place, :, start // CHUNK] = _block_norms(part, p).cpu()
    # The norm of the block norms, with the exponent of each, is the norm of all rows.
    orders = (2.0, 1.0, 1.0, p, p)
    whole = [_norm(blocks[:, index], order, dim=1) for index, order in enumerate(orders)]
    errors, norms, margins = torch.stack(whole, dim=1).tolist()
    wide = {
        index: factors.shape[1] ** max(1 / order - 0.5, 0.0) for index, order in ((1, 1.0), (3, p))
    }
    return errors, norms, [margin * wide.get(index, 1.0) for index, margin in enumerate(margins)]


class _Reach:
    """The rows of an approximation in float64, and what rounding can change in each.

    Parameters
    ----------
    factors
        The approximation; factors of a product are converted one block of rows at a time.
    unit
        The power of two to divide by.
    """

    def __init__(self, factors: Approximation, unit: float) -> None:
        self.unit, self.factors = unit, factors
        self.plain = isinstance(factors, Factors)
        if isinstance(factors, Factors):
            self.right = factors.right.double()
            self.bias = None if factors.bias is None else factors.bias.double() / unit
        else:
            self.factors = factors.to(dtype=torch.float64)

    def dense(self, start: int, stop: int) -> Tensor:
        """Return rows of the approximation."""
        if not isinstance(self.factors, Factors):
            return self.factors.dense(start, stop) / self.unit
        rows = self._left(start, stop) @ self.right
        return rows if self.bias is None else rows + self.bias

    def rounding(self, start: int, stop: int) -> Tensor:
        """Return a bound for each row on the length of the rounding error of `dense`, n×1."""
        if isinstance(self.factors, Factors):
            left, size = self._left(start, stop), float(self.right.norm())
            extra = 0.0 if self.bias is None else float(self.bias.norm())
        elif isinstance(self.factors, ClusteredFactors):
            left = self.factors.left[start:stop] / self.unit
            size, extra = float(self.factors.right.flatten(1).norm(dim=1).max()), 0.0
        else:  # no bound is claimed for such factors
            return torch.zeros(1, 1, dtype=torch.float64)
        lengths = _norm(left, 2.0, dim=1, keepdim=True) * size + extra
        margin: Tensor = 2 * gamma(left.shape[1]) * lengths
        return margin

    def _left(self, start: int, stop: int) -> Tensor:
        assert isinstance(self.factors, Factors)
        return self.factors.left[start:stop].double() / self.unit


def _block_norms(rows: Tensor, p: float) -> Tensor:
    lengths = _norm(rows, 2.0, dim=1)
    fixed = [_norm(lengths, 2.0), _norm(rows, 1.0), _norm(lengths, 1.0)]
    if p == 1:  # the same two norms once more
        return torch.stack([*fixed, *fixed[1:]])
    return torch.stack([*fixed, _norm(rows, p), _norm(lengths, p)])


def report_norm(
    error: float, norm: float, margin: float, unit: float, bound: float | None, by: str | None
) -> dict[str, Any]:
    """Return what `certify` says about one norm, from numbers in units of `unit`.

    Parameters
    ----------
    error, norm
        Norms of the error and of the matrix.
    margin
        What rounding can have taken from the error.
    unit
        The unit of all numbers.
    bound, by
        Lower bound on every error of the rank, and its name; None if none is known.

    Raises
    ------
    LowRankError
        When the error overflows.
    """
    if not math.isfinite(error * unit):
        raise LowRankError("the error of the factors overflows float64; scale the matrix down")
    within = None
    if bound is not None and not math.isfinite(bound * unit):
        bound = by = None
    if bound is not None and error == 0:  # optimal
        within = 1.0
    elif bound is not None and bound > 0:
        # The bound holds for the exact error, so a ratio below one is rounding of the error.
        within = max(1.0, (error + margin) / bound)
    return {
        "error": error * unit,
        "relative": error / norm if norm else 0.0,
        "bound": None if bound is None else bound * unit,
        "by": by,
        "within": within if within is None or math.isfinite(within) else None,
    }
