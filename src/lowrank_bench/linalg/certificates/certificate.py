"""Guarantees as numbers: how far factors can be from the best of their rank for a matrix."""

from typing import Any

import torch
from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.certificates.lower_bounds import LowerBounds, slack
from lowrank_bench.linalg.ellipsoid.lewis import LewisWeights
from lowrank_bench.linalg.factors import Approximation, ClusteredFactors, Factors
from lowrank_bench.linalg.gram import unit_of

CHUNK = 2048  # rows per block
_norm = torch.linalg.vector_norm
NOISE = 1e-12  # an error below this fraction of the norm of A is rounding
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
        `bound` and `within` are None if no bound is known: the parts of a partition can have any
        total rank, except that k clusters of dimension j have rank at most k·j. `within` is also
        None if the bound is zero but the error is not.

    Raises `LowRankError` if the shapes differ or p is below one.
    """
    if not p >= 1:
        raise LowRankError(f"a certificate needs p >= 1, not p = {p:g}")
    if tuple(matrix.shape) != tuple(factors.shape):
        here, there = ("x".join(map(str, shape)) for shape in (matrix.shape, factors.shape))
        raise LowRankError(f"factors of a {there} matrix cannot be certified for a {here} one")
    bounds = bounds or LowerBounds(matrix)
    errors, norms = _norms(matrix, factors, p)
    rank = rank_limit(factors)
    # Factors without a limit on the rank can equal the matrix: there is no bound to report.
    best: dict[str, tuple[float, str]] = {}
    if rank is not None:
        best = {
            "fro": (bounds.frobenius(rank), "svd"),
            "l1": bounds.entries(rank, 1.0, thorough),
            "l21": bounds.rows(rank, 1.0, thorough),
            "lp": bounds.entries(rank, p, thorough),
            "l2p": bounds.rows(rank, p, thorough),
        }
    return {
        name: _report(error, norm, *best.get(name, (None, None)))
        for name, error, norm in zip(NORMS, errors, norms, strict=True)
    }


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
    pairs = zip(NORMS[:3], *_norms(matrix, factors, 1.0), strict=False)
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


def _norms(matrix: Tensor, factors: Approximation, p: float) -> tuple[list[float], list[float]]:
    """Return the norms `NORMS` of the error and of the matrix, one block of rows at a time."""
    # Dividing by a power of two keeps p-th powers in range and is exact.
    unit = unit_of(matrix)
    exact = factors.to(dtype=torch.float64)
    parts = []
    for start in range(0, len(matrix), CHUNK):
        rows = matrix[start : start + CHUNK].double()
        gap = rows - exact.dense(start, start + CHUNK)
        parts.append(torch.stack([_block_norms(part / unit, p) for part in (gap, rows)]).cpu())
    # The norm of the block norms, with the exponent of each, is the norm of all rows.
    blocks = torch.stack(parts, dim=-1)
    orders = (2.0, 1.0, 1.0, p, p)
    whole = [_norm(blocks[:, index], order, dim=1) for index, order in enumerate(orders)]
    errors, norms = (torch.stack(whole, dim=1) * unit).tolist()
    return errors, norms


def _block_norms(rows: Tensor, p: float) -> Tensor:
    lengths = _norm(rows, 2.0, dim=1)
    fixed = (_norm(lengths, 2.0), _norm(rows, 1.0), _norm(lengths, 1.0))
    return torch.stack([*fixed, _norm(rows, p), _norm(lengths, p)])


def _report(error: float, norm: float, bound: float | None, by: str | None) -> dict[str, Any]:
    within = None
    if bound is not None:
        if error <= NOISE * norm:  # zero up to rounding: optimal
            within = 1.0
        elif bound > NOISE * norm:
            within = error / bound
    return {
        "error": error,
        "relative": error / norm if norm else 0.0,
        "bound": bound,
        "by": by,
        "within": within,
    }
