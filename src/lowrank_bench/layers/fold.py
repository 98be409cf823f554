"""How the weight of a layer becomes matrices: folding schemes, channel groups and what they cost.

Only shapes are computed here; the values are folded by `layers.convolution.fold`. A linear layer
out×in is the convolution out×in×1×1, for which all schemes are one.
"""

from math import prod

from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.layers.convolution import SCHEMES, fold, split_kernel

__all__ = [
    "SCHEMES",
    "divisors",
    "fold",
    "kernel_shape",
    "matrix_shape",
    "nearest_divisor",
    "split_kernel",
    "unfold",
    "weights_per_rank",
]

Shape = tuple[int, int, int, int]


def kernel_shape(shape: tuple[int, ...]) -> Shape:
    """Return f, c, k1, k2 of a weight f×c×k1×k2 or out×in."""
    if len(shape) not in (2, 4):
        raise LowRankError(f"a weight of {len(shape)} axes cannot be folded; 2 or 4 are known")
    f, c, k1, k2 = (*shape, 1, 1)[:4]
    return f, c, k1, k2


def matrix_shape(shape: Shape, scheme: int, groups: int) -> tuple[int, int]:
    """Return rows f·|decoder kernel| and columns c/k·|encoder kernel| of each group's matrix."""
    f, c, k1, k2 = shape
    encoder, decoder = split_kernel((k1, k2), scheme)
    return f * prod(decoder), c // groups * prod(encoder)


def weights_per_rank(shape: Shape, scheme: int, groups: int) -> int:
    """Return how many weights one unit of rank j in each of k groups costs.

    k·f·|decoder kernel| in the decoder and c·|encoder kernel| in the encoder: f·k + c·k1·k2 for
    scheme 0.

    References
    ----------
    Liebenwein et al., "Compressing Neural Networks: Towards Determining the Optimal Layer-wise
    Decomposition", NeurIPS 2021, section 2.1.
    """
    rows, columns = matrix_shape(shape, scheme, groups)
    return groups * (rows + columns)


def unfold(matrices: Tensor, shape: Shape, scheme: int) -> Tensor:
    """Return the weight f×c×k1×k2 whose `fold` is `matrices`, groups×rows×columns."""
    f, c, k1, k2 = shape
    (e1, e2), (d1, d2) = split_kernel((k1, k2), scheme)
    groups = len(matrices)
    parts = matrices.reshape(groups, f, d1, d2, c // groups, e1, e2)
    return parts.permute(1, 0, 4, 2, 5, 3, 6).reshape(f, c, k1, k2)


def divisors(number: int) -> list[int]:
    """Return the divisors of a positive number, rising."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def nearest_divisor(number: int, wanted: int) -> int:
    """Return the divisor of `number` nearest to `wanted`, the larger of two that are as near."""
    return min(divisors(number), key=lambda d: (abs(d - wanted), -d))
