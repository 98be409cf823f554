"""The rounding that fits into a number of bytes."""

from typing import Any, Literal

from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.coding.coded import relative_error
from lowrank_bench.linalg.coding.packing import MOST
from lowrank_bench.linalg.coding.rounding import RoundedRows, Scale, round_to_nearest

GROUPS = (32, 64, 128)  # columns that share a scale, besides whole rows
HEADER = 16  # bytes of the sizes
Group = Literal["row", 32, 64, 128]


def rounding_bytes(rows: int, columns: int, bits: int, group: int) -> int:
    """Return the bytes of an n×d matrix rounded to b bits, with scales for g columns each."""
    return rows * (-(-columns * bits // 8) + 2 * -(-columns // group)) + HEADER


def best_rounding(
    matrix: Tensor,
    n_bytes: int,
    bits: int | None = None,
    group: Group | None = None,
    scale: Scale = "least_squares",
) -> tuple[RoundedRows, dict[str, Any]]:
    """Return the rounding of least squared error in a number of bytes.

    Parameters
    ----------
    matrix
        Tensor A, n×d, finite.
    bits, group
        What is fixed; by default each group size is tried with as many bits as fit.

    Raises
    ------
    LowRankError
        When nothing fits.
    """
    n, d = matrix.shape
    sizes = sorted({min(size, d) for size in (d, *GROUPS)}, reverse=True)
    if group is not None:
        sizes = [d if group == "row" else min(group, d)]
    depths = range(MOST, 0, -1) if bits is None else (bits,)
    fitting = [
        next((b, size) for b in depths if rounding_bytes(n, d, b, size) <= n_bytes)
        for size in sizes
        if rounding_bytes(n, d, depths[-1], size) <= n_bytes
    ]
    if not fitting:
        least = rounding_bytes(n, d, depths[-1], sizes[0])
        raise LowRankError(
            f"rounding to {depths[-1]} bits takes {least:,} bytes, and the budget has "
            f"{n_bytes:,}; save at most {1 - least / (4 * n * d):.4f} of the bytes"
        )
    codes = [(round_to_nearest(matrix, b, size, scale), b, size) for b, size in fitting]
    code, depth, size = min(codes, key=lambda entry: relative_error(matrix, entry[0]))
    return code, {"bits": depth, "group": size}
