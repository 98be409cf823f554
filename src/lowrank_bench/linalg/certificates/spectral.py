"""Lower bounds on the tails of a spectrum, (Σ_{j>k} σ_j²)^{1/2}, that count rounding."""

import math

import torch
from torch import Tensor

from lowrank_bench.linalg.certificates.rounding import UNIT, Rows, smallest_sum
from lowrank_bench.linalg.gram import triangular_factor

# Use the Gram matrix while rounding takes less than this fraction of the squared tail.
ACCEPTED = 1e-9


class Tails:
    """Lower bounds on the error of every matrix of rank k in the Frobenius norm.

    The Gram matrix gives them for ordinary spectra. Where its rounding error, relative to the
    largest eigenvalue, is too large for the tail, a QR factorization gives them, whose error is
    relative to the largest singular value.

    Parameters
    ----------
    rows
        The matrix A, n×d.
    """

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._gram: tuple[Tensor, float] | None = None
        self._known: dict[int, float] = {}
        self._values: Tensor | None = None

    def gram(self) -> tuple[Tensor, float]:
        """Return AᵀA and the γ of its rounding error, computed once."""
        if self._gram is None:
            self._gram = self._rows.gram()
        return self._gram

    def __call__(self, rank: int) -> float:
        """Return a lower bound on (Σ_{j>k} σ_j²)^{1/2}, in units of `Rows.unit`."""
        if rank not in self._known:
            self._known[rank] = self._bound(rank)
        return self._known[rank]

    def _bound(self, rank: int) -> float:
        rows, columns = self._rows.shape
        if rank >= min(rows, columns):
            return 0.0
        if rows >= columns:
            form, share = self.gram()
            # |A|ᵀ|A| has the trace of AᵀA, which bounds its Frobenius norm.
            square, margin = smallest_sum(form, columns - rank, share * float(form.trace()))
            if margin <= ACCEPTED * square:
                return math.sqrt(square - margin) * (1 - 4 * UNIT)
        values = self._singular()
        # The tail is the distance from the matrices of rank k, so it moves by at most the error.
        margin = 4 * (rows + columns) * UNIT * float(values.norm())
        return max(float(values[rank:].norm()) - margin, 0.0)

    def _singular(self) -> Tensor:
        """Return the singular values by QR factorizations, the largest first."""
        if self._values is None:
            rows, columns = self._rows.shape
            if rows >= columns:
                factor = self._rows.matrix.new_zeros(0, columns, dtype=torch.float64)
                for _, block in self._rows.blocks():
                    factor = triangular_factor(torch.cat([factor, block]))
            else:
                whole = torch.cat([block for _, block in self._rows.blocks()])
                factor = torch.linalg.qr(whole.T, mode="r").R
            self._values = torch.linalg.svdvals(factor)
        return self._values
