"""How the weight of a layer becomes matrices: folding schemes, channel groups and what they cost.

A linear layer out×in is the convolution out×in×1×1, for which all schemes are the same.
"""

from math import prod

from torch import Tensor

from lowrank_bench.errors import LowRankError

SCHEMES = (0, 1, 2, 3)
Shape = tuple[int, int, int, int]


def split_kernel(kernel: tuple[int, int], scheme: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the kernel sizes of encoder and decoder for a folding scheme.

    Parameters
    ----------
    kernel
        (k1, k2) of the dense convolution.
    scheme
        0: the encoder takes the whole kernel; 1: the encoder takes k2, the decoder k1; 2: the
        encoder takes k1, the decoder k2; 3: the decoder takes the whole kernel.

    Raises
    ------
    LowRankError
        When there is no such scheme.
    """
    if scheme not in SCHEMES:
        raise LowRankError(f"unknown folding scheme {scheme!r}; known: 0, 1, 2, 3")
    tall, wide = encoder_axes(scheme)
    encoder = (kernel[0] if tall else 1, kernel[1] if wide else 1)
    return encoder, (kernel[0] // encoder[0], kernel[1] // encoder[1])


def encoder_axes(scheme: int) -> tuple[bool, bool]:
    """Return whether the encoder runs along axis k1 of the kernel, and along axis k2."""
    return scheme in (0, 2), scheme in (0, 1)


def fold(weight: Tensor, scheme: int = 0, groups: int = 1) -> Tensor:
    """Return the matrices to approximate: groups × (f·decoder kernel) × (c/groups·encoder kernel).

    Parameters
    ----------
    weight
        Tensor f×c×k1×k2.
    scheme
        Which of the two factors takes which part of the kernel (`split_kernel`).
    groups
        Number of consecutive slices of the c input channels; divides c.

    References
    ----------
    Liebenwein, Maalouf, Gal, Feldman, Rus, "Compressing neural networks: towards determining the
    optimal layer-wise decomposition", NeurIPS 2021, section 2.1: the channel slices, scheme 0.
    """
    f, c, k1, k2 = weight.shape
    if groups < 1 or c % groups:
        raise LowRankError(f"{groups} groups do not divide {c} input channels; take a divisor")
    (e1, e2), (d1, d2) = split_kernel((k1, k2), scheme)
    # One of d1 and e1 is 1, and one of d2 and e2: the reshape only names each axis's factor.
    parts = weight.reshape(f, groups, c // groups, d1, e1, d2, e2)
    parts = parts.permute(1, 0, 3, 5, 2, 4, 6)
    return parts.reshape(groups, f * d1 * d2, c // groups * e1 * e2)


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
    """Return the divisors of a positive number in ascending order."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def nearest_divisor(number: int, wanted: int) -> int:
    """Return the divisor of `number` nearest to `wanted`; of two equally near, the larger."""
    return min(divisors(number), key=lambda d: (abs(d - wanted), -d))
