"""Products with a tall matrix, a block of rows at a time, and its right singular vectors.

A tall n×d matrix is read through its d×d Gram matrix where that is accurate, at a third of the
cost of its SVD and without a second copy of it; through a QR factorization where it is not.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK = 1024
BLOCK_BYTES = 1 << 20  # of a block that is scaled first; it then stays in the cache
PANELS = 8
# The Gram matrix squares the condition number. Down to this ratio of its eigenvalues the smallest
# of them still has eight correct digits.
STEEP = 1e-8


def _blocks(matrix: Tensor, scale: Tensor | float | None, size: int = CHUNK) -> Iterator[Tensor]:
    """Yield blocks of rows; each row times its entry of `scale`."""
    for start in range(0, len(matrix), size):
        block = matrix[start : start + size]
        if isinstance(scale, Tensor):
            block = block * scale[start : start + size, None]
        elif scale is not None:
            block = block * scale
        yield block


def _panels(width: int) -> list[tuple[int, int]]:
    """Return column ranges; only those on one side of the diagonal need computing."""
    step = width if width < 16 * PANELS else math.ceil(width / PANELS)
    return [(start, min(start + step, width)) for start in range(0, width, step)]


def gram(matrix: Tensor, scale: Tensor | float | None = None) -> Tensor:
    """Return (DA)ᵀ(DA), d×d, for A n×d and D = diag(`scale`), in the precision of A.

    Costs 9/16 of the full product, n·d²·9/8 operations, and one block of rows of memory.
    """
    width = matrix.shape[1]
    total = matrix.new_zeros(width, width)
    size = min(CHUNK, max(256, BLOCK_BYTES // (matrix.element_size() * max(width, 1))))
    for block in _blocks(matrix, scale, size):
        for low, high in _panels(width):
            total[low:high, low:].addmm_(block[:, low:high].T, block[:, low:])
    return total.triu() + total.triu(1).T


def squared_norms(matrix: Tensor, triangle: Tensor, scale: Tensor | None = None) -> Tensor:
    """Return ‖T (s_i a_i)‖² for each row a_i of A n×d, T lower triangular d×d, s = `scale`."""
    parts = []
    upper = triangle.T.contiguous()
    for block in _blocks(matrix, scale):
        total = block.new_zeros(len(block))
        for low, high in _panels(matrix.shape[1]):
            image = block[:, :high] @ upper[:high, low:high]
            total += torch.linalg.vecdot(image, image)
        parts.append(total)
    return torch.cat(parts) if parts else matrix.new_zeros(0)


def triangular_factor(matrix: Tensor, scale: float | None = None) -> Tensor:
    """Return R of a QR factorization of `scale`·A, d×d for A n×d with n ≥ d."""
    factor = matrix.new_zeros(0, matrix.shape[1])
    for block in _blocks(matrix, scale, max(CHUNK, 4 * matrix.shape[1])):
        factor = torch.linalg.qr(torch.cat([factor, block]), mode="r").R
    return factor


def power_of_two(value: float) -> float:
    """Return the power of two next above `value` > 0; scaling by it rounds nothing."""
    return math.ldexp(1.0, math.frexp(value)[1])


def largest_entry(matrix: Tensor) -> float:
    """Return max |a_ij|, without a copy of the matrix; NaN when an entry is."""
    if matrix.numel() == 0:
        return 0.0
    low, high = torch.aminmax(matrix)
    return max(-float(low), float(high)) if low == low else math.nan


def unit_of(matrix: Tensor) -> float:
    """Return a power of two by which a matrix divides to entries of at most one; 1 for zeros.

    It keeps squares of very large and very small entries in range, and rounds nothing.
    """
    return power_of_two(largest_entry(matrix) or 0.5)


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
        Tensor d×m with orthonormal columns, whatever the rank of A.
    """
    rows, columns = matrix.shape
    if rows < columns:
        rotation, factor = torch.linalg.qr(matrix.T)
        values, vectors = right_singular(factor.T)
        return values, rotation @ vectors
    peak = largest_entry(matrix)
    if peak == 0:
        return matrix.new_zeros(columns), torch.eye(columns).to(matrix)
    unit = power_of_two(peak)
    scale = None if 1e-100 < unit < 1e100 else 1 / unit
    squares, vectors = torch.linalg.eigh(gram(matrix, scale))
    if squares[0] >= STEEP * squares[-1]:
        values, vectors = squares.flip(0).sqrt(), vectors.flip(1)
    else:
        _, values, rows_v = torch.linalg.svd(triangular_factor(matrix, scale))
        vectors = rows_v.T
    return values if scale is None else values * unit, vectors


def numerical_rank(values: Tensor, rows: int, columns: int) -> int:
    """Return how many singular values of an n×d matrix stand out of rounding, as numpy does."""
    if len(values) == 0:
        return 0
    floor = values[0] * max(rows, columns) * torch.finfo(values.dtype).eps
    return int((values > floor).sum())
