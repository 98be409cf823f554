"""Products with a tall matrix, one block of rows at a time, and its right singular vectors.

The singular vectors of a tall n×d matrix come from its d×d Gram matrix if that is accurate
enough: a third of the cost of an SVD, and no second copy of the matrix. Otherwise they come from
a QR factorization.
"""

import math
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from lowrank_bench.linalg.units import largest_entry, power_of_two

CHUNK = 1024
BLOCK_BYTES = 1 << 20  # size of a scaled block of rows, small enough to stay in the cache
PANELS = 8  # column panels of a Gram matrix
# The Gram matrix squares the condition number. Down to this ratio of smallest to largest
# eigenvalue, the smallest still has eight correct digits.
STEEP = 1e-8


class Blocks(Protocol):
    """What the products read of a matrix: its size, and blocks of its rows."""

    @property
    def shape(self) -> torch.Size:
        """The size n×d."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The type of the entries."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Tensor: ...

    def new_zeros(self, *size: int) -> Tensor:
        """Return zeros of that size, of the type and on the device of the matrix."""
        ...

    def element_size(self) -> int:
        """Return the bytes of an entry."""
        ...


def _blocks(matrix: Blocks, scale: Tensor | float | None, size: int = CHUNK) -> Iterator[Tensor]:
    """Yield blocks of rows, each row multiplied by its entry of `scale`."""
    for start in range(0, len(matrix), size):
        block = matrix[start : start + size]
        if isinstance(scale, Tensor):
            block = block * scale[start : start + size, None]
        elif scale is not None:
            block = block * scale
        yield block


def _panels(width: int) -> list[tuple[int, int]]:
    """Return the column ranges of the panels; narrow matrices have a single one."""
    step = width if width < 16 * PANELS else math.ceil(width / PANELS)
    return [(start, min(start + step, width)) for start in range(0, width, step)]


def gram(matrix: Blocks, scale: Tensor | float | None = None) -> Tensor:
    """Return (DA)ᵀ(DA), d×d, for A n×d and D = diag(`scale`), in the precision of A.

    Costs n·d²·9/8 operations, 9/16 of the full product, and memory for one block of rows.
    """
    width = matrix.shape[1]
    total = matrix.new_zeros(width, width)
    size = min(CHUNK, max(256, BLOCK_BYTES // (matrix.element_size() * max(width, 1))))
    for block in _blocks(matrix, scale, size):
        # The result is symmetric: compute the panels on and right of the diagonal, then mirror.
        for low, high in _panels(width):
            total[low:high, low:].addmm_(block[:, low:high].T, block[:, low:])
    return total.triu() + total.triu(1).T


def squared_norms(matrix: Blocks, triangle: Tensor, scale: Tensor | None = None) -> Tensor:
    """Return ‖T (s_i a_i)‖² for each row a_i of A n×d, T lower triangular d×d, s = `scale`."""
    # One result for all blocks: small ones kept between large temporaries would fragment memory.
    squares = matrix.new_zeros(len(matrix))
    upper = triangle.T.contiguous()
    start = 0
    for block in _blocks(matrix, scale):
        total = squares[start : start + len(block)]
        start += len(block)
        # Entries j of T a need only a_1..a_j, so each panel multiplies the columns up to its end.
        for low, high in _panels(matrix.shape[1]):
            image = block[:, :high] @ upper[:high, low:high]
            total += torch.linalg.vecdot(image, image)
    return squares


def triangular_factor(matrix: Tensor, scale: float | None = None) -> Tensor:
    """Return R of a QR factorization of `scale`·A, d×d for A n×d with n ≥ d."""
    # R of [R₁; next block] is R of all rows so far: memory for one block is enough.
    factor = matrix.new_zeros(0, matrix.shape[1])
    for block in _blocks(matrix, scale, max(CHUNK, 4 * matrix.shape[1])):
        factor = torch.linalg.qr(torch.cat([factor, block]), mode="r").R
    return factor


def right_singular(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the singular values of A and its right singular vectors, the largest first.

    Parameters
    ----------
    matrix
        Tensor A, n×d, float64, finite.

    Returns
    -------
    values
        Tensor of m = min(n, d).
    vectors
        Tensor d×m with orthonormal columns, even if A is rank deficient.
    """
    rows, columns = matrix.shape
    if rows < columns:
        # With Aᵀ = QR, A = Rᵀ Qᵀ: the small Rᵀ has the same singular values.
        rotation, factor = torch.linalg.qr(matrix.T)
        values, vectors = right_singular(factor.T)
        return values, rotation @ vectors
    peak = largest_entry(matrix)
    if peak == 0:
        return matrix.new_zeros(columns), torch.eye(columns).to(matrix)
    unit = power_of_two(peak)
    # Scale only if the squares of entries could leave the range of float64.
    scale = None if 1e-100 < unit < 1e100 else 1 / unit
    if scale == math.inf:  # the reciprocal of a subnormal number overflows, a division does not
        values, vectors = right_singular(matrix / unit)
        return values * unit, vectors
    # AᵀA = V Σ² Vᵀ
    squares, vectors = torch.linalg.eigh(gram(matrix, scale))
    if squares[0] >= STEEP * squares[-1]:
        values, vectors = squares.flip(0).sqrt(), vectors.flip(1)
    else:
        # Too ill-conditioned for AᵀA: R of A = QR has the same singular values and vectors.
        _, values, rows_v = torch.linalg.svd(triangular_factor(matrix, scale))
        vectors = rows_v.T
    return values if scale is None else values * unit, vectors


def numerical_rank(values: Tensor, rows: int, columns: int) -> int:
    """Return how many singular values exceed rounding error, as NumPy's `matrix_rank` does."""
    if len(values) == 0:
        return 0
    floor = values[0] * max(rows, columns) * torch.finfo(values.dtype).eps
    return int((values > floor).sum())
