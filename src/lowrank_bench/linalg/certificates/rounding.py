"""What rounding can change in float64: margins for bounds that must hold.

A sum of n products, in any order, is off by at most γ_n = n·u/(1 − n·u) times the sum of their
magnitudes, u = 2⁻⁵³. Eigenvalues and singular values are those of a matrix that differs from the
given one by at most a small multiple of its size times u, in the Frobenius norm. Higham, "Accuracy
and Stability of Numerical Algorithms", 2002, sections 3.1, 3.5 and 19.3; LAPACK Users' Guide,
sections 4.7 and 4.9.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from lowrank_bench.linalg.gram import gram
from lowrank_bench.linalg.units import unit_of

UNIT = 2.0**-53
SAFE = (1e-60, 1e60)  # units between which neither powers nor reciprocals leave float64
BLOCK = 4096  # rows per block; longer sums would need larger margins
SPARE = 8  # roundings of a product beside those of the sum: scales, roots, norms


def gamma(count: float) -> float:
    """Return γ for sums of `count` products, with some to spare."""
    return (count + SPARE) * UNIT * 1.01


class Rows:
    """The rows of a matrix in blocks of float64, in a unit in which powers stay in range.

    Parameters
    ----------
    matrix
        Tensor n×d in any precision, finite; it is not copied.

    Attributes
    ----------
    unit
        The power of two that all entries are divided by, exactly; 1 for ordinary matrices.
    turn
        Tensor d×m that all blocks are multiplied by, or None.
    """

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.turn: Tensor | None = None
        unit = unit_of(matrix)
        self.unit = 1.0 if SAFE[0] < unit < SAFE[1] else unit
        self.shape: tuple[int, int] = (matrix.shape[0], matrix.shape[1])

    def blocks(self, columns: slice = slice(None)) -> Iterator[tuple[slice, Tensor]]:
        """Yield the slices of blocks of rows, with the rows cut to some columns."""
        for start in range(0, len(self.matrix), BLOCK):
            part = slice(start, start + BLOCK)
            rows = self.matrix[part, columns].to(torch.float64)
            rows = rows if self.unit == 1.0 else rows / self.unit
            yield part, rows if self.turn is None else rows @ self.turn

    def turned(self, turn: Tensor) -> "Rows":
        """Return the rows times a matrix d×m, computed block by block when they are used."""
        other = Rows(self.matrix)
        other.unit, other.turn = self.unit, turn
        return other

    def gram(
        self, weights: Tensor | None = None, columns: slice = slice(None)
    ) -> tuple[Tensor, float]:
        """Return AᵀDA for D = diag(`weights`), and the γ of its rounding error, γ|A|ᵀD|A|."""
        total: Tensor | None = None
        for part, rows in self.blocks(columns):
            added = gram(rows, None if weights is None else weights[part].sqrt())
            total = added if total is None else total.add_(added)
        assert total is not None, "a matrix has rows"
        return total, gamma(min(BLOCK, self.shape[0]) + self.shape[0] // BLOCK)


def smallest_sum(form: Tensor, count: int, error: float) -> tuple[float, float]:
    """Return the sum of the `count` smallest eigenvalues of a symmetric matrix, and its margin.

    Parameters
    ----------
    form
        The computed matrix, d×d.
    count
        How many eigenvalues, at most d.
    error
        Bound on its distance from the exact matrix, in the Frobenius norm.

    Returns
    -------
    (float, float)
        The computed sum, and the most by which the exact one can be smaller.
    """
    values = torch.linalg.eigvalsh(form)[:count]
    # A perturbation E moves a sum of m eigenvalues by at most √m·‖E‖_F (Ky Fan, Cauchy–Schwarz).
    error += 4 * len(form) * UNIT * float(form.norm())
    return float(values.sum()), count**0.5 * error + gamma(count) * float(values.abs().sum())
