"""A convex lower bound on Σ ‖e_i‖^p over all matrices of rank k, that counts rounding."""

import math

import torch
from torch import Tensor

from lowrank_bench.linalg.certificates.rounding import UNIT, Rows, gamma, smallest_sum

STEPS = 30  # step limit; every step gives a valid bound
GAP = 1e-2  # stop when no bound of this kind can be larger by more than this fraction
FLOOR = 1e-7  # fraction of the largest length below which lengths count as equal
ACCEPTED = 1e-9  # rounding margin, as a fraction of the bound, that is not worth more work
PART = 0.75  # if Q differs from I on more than this fraction of d directions, form Q a_i itself
CLEAR = 1e-3  # fraction of ‖a_i‖² below which a difference of squares is no longer exact enough


def relaxed(rows: Rows, form: Tensor, rank: int, p: float, columns: slice = slice(None)) -> float:
    """Return a lower bound on (Σ ‖Q a_i‖^p)^{1/p} over 0 ≤ Q ≤ I with trace d − k.

    Let s_i be any numbers and g_i = Q a_i / s_i with s_i ≥ ‖Q a_i‖ at one Q. For every other Q',
    t_i = ‖Q' a_i‖ is at least g_i·Q' a_i, and t_i^p ≥ p s_i^{p−1} t_i − (p − 1) s_i^p. The sum over
    the rows is linear in Q', and least at a sum of d − k eigenvalues. So the bound holds for
    whatever Q and s_i were computed, and only the rounding of this last sum has to be subtracted.

    Parameters
    ----------
    rows
        The matrix A, n×d.
    form
        AᵀA of its `columns`.
    rank, p
        k, and the exponent, 1 ≤ p ≤ 2.
    columns
        The columns to which the matrix is cut.

    Returns
    -------
    float
        The bound in units of `Rows.unit`, at least 0.
    """
    free = len(form) - rank
    if free <= 0 or not float(form.trace()) > 0:
        return 0.0
    best, margin = _search(rows, form, free, p, columns)
    if best > 0 and margin <= ACCEPTED * best:
        return _root(best - margin, p)
    # Rows near a subspace: lengths differ from ‖a_i‖ by orders of magnitude, and so do the entries
    # of the Gram matrices in the axes of A. Rounding is then relative to each entry.
    turn = torch.linalg.eigh(form)[1].flip(1)
    other = rows.turned(turn) if columns == slice(None) else _cut(rows, columns).turned(turn)
    best, margin = _search(other, other.gram()[0], free, p, slice(None))
    return max(_root(max(best - margin, 0.0), p) - _moved(other, p), 0.0)


def _root(power: float, p: float) -> float:
    return math.pow(power, 1 / p) * (1 - 4 * UNIT)


def _cut(rows: Rows, columns: slice) -> Rows:
    """Return the rows of some columns; they share the unit of all, for one sum of the bounds."""
    part = Rows(rows.matrix[:, columns])
    part.unit = rows.unit
    return part


def _moved(rows: Rows, p: float) -> float:
    """Return a bound on what turning the rows can change in the norm by rows."""
    width = rows.shape[1]
    lengths = torch.cat([torch.linalg.vector_norm(part, dim=1) for _, part in rows.blocks()])
    # The product with the turn, which is itself orthonormal up to rounding.
    return 8 * gamma(width) * math.sqrt(width) * float(torch.linalg.vector_norm(lengths, p))


def _search(rows: Rows, form: Tensor, free: int, p: float, columns: slice) -> tuple[float, float]:
    """Return the best tangent's minimum, at least 0, and its rounding margin."""
    best, margin = 0.0, 0.0
    for _ in range(STEPS):
        # Reweighted least squares: the best Q for the present weights, then new weights.
        projector = _Projector(form, free)
        lengths = form.new_empty(rows.shape[0])
        for part, block in rows.blocks(columns):
            lengths[part] = projector.lengths(block)
        longest = float(lengths.max())
        if not longest > 0:
            break
        weights = lengths ** (p - 1) / lengths.clamp(min=longest * FLOOR + 1e-300)
        form, share = rows.gram(weights, columns)
        total = float(lengths.pow(p).sum())
        value, lost = _tangent(form, share, projector.matrix, free, p, total, len(lengths))
        if value - lost > best - margin:
            best, margin = value, lost
        # The objective at any Q is an upper bound on its minimum. Stop near it, or where rounding
        # leaves nothing of it.
        if best >= (1 - GAP) * total or lost >= total:
            break
    return best, margin


def _tangent(
    form: Tensor, share: float, projector: Tensor, free: int, p: float, total: float, count: int
) -> tuple[float, float]:
    """Return the minimum of the tangent of Σ ‖Q a_i‖^p, and what rounding can take from it."""
    slope = form @ projector
    slope = (slope + slope.T) / 2
    # The form is off by at most γ|A|ᵀD|A| ≤ γhhᵀ entry by entry, h_j² its diagonal. Its product
    # with Q is then off by γh(hᵀ|Q|), which is also what the product itself rounds by.
    size = form.diagonal().clamp(min=0).sqrt()
    reach = float(size.norm() * (size @ projector.abs()).norm())
    error = (share + gamma(len(form))) * reach
    value, margin = smallest_sum(slope, free, error)
    own = (p - 1) * total
    return p * value - own, p * margin + own * gamma(count)


class _Projector:
    """The Q that minimises trace(Q² form) over 0 ≤ Q ≤ I with trace `free`."""

    def __init__(self, form: Tensor, free: int) -> None:
        values, vectors = torch.linalg.eigh(form)
        # A floor keeps the reciprocals of zero eigenvalues finite.
        values = values.clamp(min=float(values[-1]) * 1e-14)
        # The eigenvalues of Q are min(1, level / value). If s of them are one, the trace determines
        # the level; the right s is the first whose level does not exceed the next value.
        inverse = (1 / values).flip(0).cumsum(0).flip(0)
        levels = (free - torch.arange(len(values)).to(values)) / inverse
        full = int((levels > values).to(torch.int8).argmin())
        shares = (levels[full] / values).clamp(max=1.0)
        self.matrix: Tensor = (vectors * shares) @ vectors.T
        # The directions on which Q is not the identity, and what it takes from their squares.
        self.axes = vectors[:, full:]
        self.taken = 1 - shares[full:].square()

    def lengths(self, rows: Tensor) -> Tensor:
        """Return upper bounds on ‖Q a_i‖, as near as rounding allows."""
        width = rows.shape[1]
        squares = torch.linalg.vecdot(rows, rows)
        if self.axes.shape[1] < PART * width:
            # ‖Qa‖² = ‖a‖² − Σ_j (1 − share_j²)(v_j·a)² costs less than Qa where Q is mostly I.
            left = squares - (rows @ self.axes).square_() @ self.taken
            if bool((left >= CLEAR * squares).all()):
                near: Tensor = (left + 16 * width * UNIT * squares).sqrt()
                return near
        length = torch.linalg.vector_norm(rows @ self.matrix, dim=1)
        upper: Tensor = (length + gamma(width) * width**0.5 * squares.sqrt()) * (1 + gamma(width))
        return upper
