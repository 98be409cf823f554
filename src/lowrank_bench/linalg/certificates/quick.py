"""Certificates of large tables at a fraction of the cost of the factors.

`certify` takes some passes in float64 over the table for the tightest bounds. Here one pass in the
table's own precision gives the errors, and everything else comes from the d×d matrix AᵀA, which
`svd` has already. What rounding in that precision can change is counted in the same way, so nothing
here is false either; the bounds are a little lower.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowrank_bench.linalg.certificates.certificate import NORMS, rank_limit, report_norm
from lowrank_bench.linalg.certificates.rounding import UNIT, gamma, smallest_sum
from lowrank_bench.linalg.factors import Factors
from lowrank_bench.linalg.gram import gram
from lowrank_bench.linalg.units import unit_of

CHUNK = 1024  # rows per block
RANGE = (1e-6, 1e6)  # largest entries between which squares of all that matter fit float32
TINY = 1e-16  # length of a row with entries whose squares leave float32
ACCEPTED = 1e-2  # rounding margin of an error, as a fraction of it
OUTLYING = 32  # one row in so many counts by its own length, the others by a common one
LEVELS = 48  # levels that are tried for the weight of the leading directions
_norm = torch.linalg.vector_norm


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Singular values of A and its right singular vectors, from a method that computed them.

    Attributes
    ----------
    values
        Tensor m = min(n, d), float64, the largest first.
    vectors
        Tensor d×m with orthonormal columns.
    """

    values: Tensor
    vectors: Tensor


@dataclass(frozen=True, eq=False)
class _Form:
    """AᵀA up to `error` in the Frobenius norm, and its eigenvalues, the smallest first."""

    matrix: Tensor
    error: float
    values: Tensor


@dataclass(frozen=True, eq=False)
class _Lengths:
    """Per row, float64: lengths of a, of its error, of its head and of what Q leaves of it."""

    error: Tensor
    margin: Tensor
    row: Tensor
    left: Tensor  # upper bounds on ‖Q a_i‖
    l1: tuple[float, float]  # Σ|error|, Σ|a|
    rounding: float  # relative, of the lengths and sums of a row
    moved: float | None  # how far the factors are from the projection of A, where they are one


def quick_certificate(
    matrix: Tensor,
    factors: Factors,
    spectrum: Spectrum | None = None,
    projected: bool = False,
) -> dict[str, dict[str, Any]] | None:
    """Return what `certify` says of the norms `fro`, `l1` and `l21`, or None where that is needed.

    The bound in the Frobenius norm is the tail of the spectrum. For rows, let Z be an orthonormal
    basis of the factors' row space, Q = I − Z(I − H)Zᵀ with a diagonal 0 ≤ H ≤ I, and s_i any
    numbers with s_i ≥ ‖Q a_i‖. For every B of rank k and the projection P onto d − k directions on
    which it vanishes, ‖a_i − b_i‖ ≥ ‖P a_i‖ ≥ (Q a_i)·(P a_i)/s_i, so the sum over the rows is at
    least that of the d − k smallest eigenvalues of the symmetric part of Q Σ a_i a_iᵀ/s_i. One s
    for all rows but the longest makes that sum AᵀA/s, less a Gram matrix of these few rows.

    Parameters
    ----------
    matrix
        Tensor A, n×d, finite.
    factors
        The approximation of A.
    spectrum
        That of A, if it is known.
    projected
        Whether `left` is known to be A·rightᵀ, computed in float64 and rounded once.

    Returns
    -------
    dict or None
        As of `certify`; None for tables that are wide, have entries beyond `RANGE`, or whose error
        is so small that rounding in their own precision would matter.
    """
    limit = rank_limit(factors)
    rows, width = matrix.shape
    if limit is None or limit >= width or rows < width or not _moderate(matrix):
        return None
    axes = _axes(factors)
    form = _form_of(matrix, spectrum, width - limit)
    inside = (axes.T @ form.matrix @ axes).diagonal()
    shares = _shares(inside, form.values, limit)
    exact = factors.left.dtype in (torch.float32, torch.float64) and factors.bias is None
    lengths = _measure(matrix, factors, axes, shares, projected and exact)
    frobenius = _tail(form, width - limit)
    by_rows = _tangent(matrix, form, axes, shares, lengths.left, width - limit)
    bound = (by_rows, "tangent") if by_rows > frobenius else (frobenius, "svd")
    lost = float(lengths.margin.norm())
    if lengths.moved is not None:
        # The same error once more, exact to float64: ‖A − A Z Zᵀ‖² is the trace outside Z.
        outside = float(form.matrix.trace() - inside.sum()) + width**0.5 * form.error
        lost = min(lost, math.sqrt(max(outside, 0.0)) + lengths.moved - float(lengths.error.norm()))
    return _reports(lengths, frobenius, bound, max(lost, 0.0), width)


def _moderate(matrix: Tensor) -> bool:
    # Lower precisions of products, which users can choose, are none that the margins know.
    plain = torch.get_float32_matmul_precision() == "highest"
    return plain and RANGE[0] < unit_of(matrix) < RANGE[1]


def _rounding(dtype: torch.dtype, count: int) -> float:
    """Return γ for sums of `count` products in a precision, with some to spare."""
    return gamma(count) if dtype == torch.float64 else gamma(count) * 2.0**29


def _axes(factors: Factors) -> Tensor:
    """Return an orthonormal basis of the factors' row space, near their rows if these are one."""
    rows = factors.right if factors.bias is None else torch.cat([factors.right, factors.bias[None]])
    basis, triangle = torch.linalg.qr(rows.double().T)
    signed: Tensor = basis * torch.where(triangle.diagonal() < 0, -1.0, 1.0).to(basis)
    return signed


def _form_of(matrix: Tensor, spectrum: Spectrum | None, free: int) -> _Form:
    """Return AᵀA, for the sum of its `free` smallest eigenvalues."""
    rows, width = matrix.shape
    if spectrum is not None:
        values, vectors = spectrum.values.square(), spectrum.vectors
        total = (vectors * values) @ vectors.T
        # Rounding of a Gram matrix, or of a QR factorization, and of the decomposition of either.
        return _Form(total, 16 * (rows + width) * UNIT * float(values.sum()), values.flip(0))
    form = _gram_form(matrix, _precision(matrix))
    # A steep spectrum: the tail is small beside what float32 loses of the largest eigenvalues.
    if free**0.5 * form.error > 2 * ACCEPTED * float(form.values[:free].sum()):
        form = _gram_form(matrix, torch.float64)
    return form


def _gram_form(matrix: Tensor, dtype: torch.dtype) -> _Form:
    """Return AᵀA from products in a precision: sums of few in it, then in float64."""
    rows, width = matrix.shape
    total = matrix.new_zeros(width, width, dtype=torch.float64)
    for start in range(0, rows, CHUNK):
        total += gram(matrix[start : start + CHUNK].to(dtype))
    error = (_rounding(dtype, CHUNK) + gamma(rows // CHUNK)) * float(total.trace()) * 1.01
    return _Form(total, error, torch.linalg.eigvalsh(total))


def _precision(*tensors: Tensor) -> torch.dtype:
    wide = any(tensor.dtype == torch.float64 for tensor in tensors)
    return torch.float64 if wide else torch.float32


def _tail(form: _Form, free: int) -> float:
    """Return a lower bound on the Frobenius error of every matrix of rank d − `free`."""
    values = form.values[:free]
    error = form.error + 4 * len(form.values) * UNIT * float(form.values.norm())
    margin = free**0.5 * error + gamma(free) * float(values.abs().sum())
    return math.sqrt(max(float(values.sum()) - margin, 0.0)) * (1 - 4 * UNIT)


def _shares(inside: Tensor, values: Tensor, rank: int) -> Tensor:
    """Return the diagonal of H, min(1, c/energy), with the c that makes the bound largest.

    Only a guide: it takes the axes for eigenvectors, and the rows for equally long.
    """
    tail, energy = values[: len(values) - rank].clamp(min=0), inside.clamp(min=1e-300)
    levels = tail[torch.linspace(0, len(tail) - 1, LEVELS).long()]
    heads = torch.minimum(levels[:, None], energy)
    # The least d − k of all eigenvalues of the slope, over the root of Σ ‖Q a_i‖².
    everything = torch.cat([heads, tail.expand(LEVELS, -1)], dim=1).sort(dim=1).values
    size = (tail.sum() + (heads.square() / energy).sum(dim=1)).clamp(min=1e-300).sqrt()
    best = int((everything[:, : len(tail)].sum(dim=1) / size).argmax())
    return heads[best] / energy


def _measure(
    matrix: Tensor, factors: Factors, axes: Tensor, shares: Tensor, projected: bool
) -> _Lengths:
    """Return the lengths of all rows, in one pass."""
    rows, width = matrix.shape
    dtype = _precision(matrix, factors.left, factors.right)
    right, small = factors.right.to(dtype), shares.to(dtype)
    heads_of = None if projected else axes.to(dtype)
    table = torch.zeros(7, rows, dtype=torch.float64)
    for start in range(0, rows, CHUNK):
        part = slice(start, start + CHUNK)
        block, left = matrix[part].to(dtype), factors.left[part].to(dtype)
        base = block if factors.bias is None else block - factors.bias.to(dtype)
        gap = torch.addmm(base, left, right, alpha=-1)
        head = left if heads_of is None else block @ heads_of
        lengths = (_norm(x, 2.0, dim=1) for x in (gap, block, left, head, head * small))
        sums = (_norm(x, 1.0, dim=1) for x in (gap, block))
        table[:, part] = torch.stack([*lengths, *sums]).cpu()
    gap, row, left, head, turned, gap_sum, row_sum = table
    # Lengths are sums of `width` squares; they may also lose entries that are too small to square.
    own = _rounding(dtype, width)
    row, left = row * (1 + own) + TINY, left * (1 + own) + TINY
    bias = 0.0 if factors.bias is None else float(factors.bias.double().norm())
    inner = _rounding(dtype, right.shape[0] + 4)
    margin = inner * (row + bias + left * float(factors.right.double().norm()))
    margin += own * gap + TINY
    longest, apart = float(shares.max()), None
    if projected:
        # With l for the head of a, ‖a‖² − ‖Zᵀa‖² is at most ‖a − Zl‖², the error's square.
        turn = float((factors.right.double().T - axes).norm())
        tail = gap + margin + turn * left
        moved = (_rounding(dtype, 1) * (1 + len(shares) ** 0.5) + gamma(width) * width + turn) * row
        moved += TINY
        apart = float(moved.norm()) + turn * float(left.norm())
    else:
        moved = _rounding(dtype, width) * len(shares) ** 0.5 * 1.01 * row + TINY
        tail = (row.square() - (head * (1 - own) - moved).clamp(min=0).square()).clamp(min=0).sqrt()
    turned = turned * (1 + own + _rounding(dtype, 1)) + TINY
    left_over = torch.hypot(tail, turned) * (1 + gamma(8)) + longest * 1.01 * moved
    left_over += 64 * width**1.5 * UNIT * row  # of Z and Q themselves
    sums_of = float(gap_sum.sum()), float(row_sum.sum())
    return _Lengths(gap, margin, row, left_over, sums_of, own, apart)


def _tangent(
    matrix: Tensor, form: _Form, axes: Tensor, shares: Tensor, left: Tensor, free: int
) -> float:
    """Return the bound by rows; see `quick_certificate`."""
    count = len(left) // OUTLYING
    level = float(left.kthvalue(len(left) - count).values)
    if not level > 0:
        return 0.0
    # Rows that Q leaves longer than the common length s count with 1/s_i instead of 1/s.
    longer = (left > level).nonzero()[:, 0]
    total, error = form.matrix, form.error
    if len(longer):
        own = matrix[longer.to(matrix.device)].double()
        less = gram(own, (1 - level / left[longer]).clamp(min=0).sqrt().to(own))
        total = total - less
        error += gamma(len(longer) + 4) * float(less.trace())
    turn = torch.eye(len(total)).to(total) - (axes * (1 - shares)) @ axes.T
    slope = total @ turn
    error = error * 1.01 + gamma(len(total)) * float(total.norm()) * float(turn.norm())
    value, margin = smallest_sum((slope + slope.T) / 2, free, error)
    return max(value - margin, 0.0) / level * (1 - gamma(0))


def _reports(
    lengths: _Lengths, frobenius: float, by_rows: tuple[float, str], lost: float, width: int
) -> dict[str, dict[str, Any]] | None:
    """Return the report of each norm, or None where rounding matters beside the error.

    Parameters
    ----------
    lost
        What rounding can have taken from the error in the Frobenius norm.
    """
    gap, margin, row = lengths.error, lengths.margin, lengths.row
    sums = gamma(len(gap)) + lengths.rounding
    found = {
        "fro": (float(gap.norm()), float(row.norm()), lost * (1 + gamma(len(gap)))),
        "l1": (*lengths.l1, float(margin.sum()) * width**0.5 + sums * lengths.l1[0]),
        "l21": (float(gap.sum()), float(row.sum()), float(margin.sum()) + sums * float(gap.sum())),
    }
    bounds = {"fro": (frobenius, "svd"), "l1": by_rows, "l21": by_rows}
    reports = {}
    for name in NORMS[:3]:
        error, size, missing = found[name]
        if not missing <= ACCEPTED * error:
            return None
        reports[name] = report_norm(error, size, missing, 1.0, *bounds[name])
    return reports
