"""The small matrices that replace a weight, and how far their product is from it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 2048


@dataclass(frozen=True)
class Factors:
    """A matrix n×d of rank at most k as the product `left` @ `right`.

    Attributes
    ----------
    left
        Tensor n×k.
    right
        Tensor k×d.
    """

    left: Tensor
    right: Tensor

    @property
    def rank(self) -> int:
        """Return k."""
        return self.left.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """Return (n, d)."""
        return self.left.shape[0], self.right.shape[1]

    @property
    def n_parameters(self) -> int:
        """Return the numbers kept, k·(n + d)."""
        return self.left.numel() + self.right.numel()

    def dense(self) -> Tensor:
        """Return the product, n×d."""
        return self.left @ self.right

    def to(
        self, *, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> "Factors":
        """Return the factors in another precision or on another device."""
        left, right = (t.to(device=device, dtype=dtype) for t in (self.left, self.right))
        return Factors(left.contiguous(), right.contiguous())


def relative_errors(matrix: Tensor, factors: Factors) -> dict[str, float]:
    """Return ‖A − LR‖ / ‖A‖ in the Frobenius and in the entrywise ℓ1 norm.

    Parameters
    ----------
    matrix
        Tensor A, n×d. The sums are float64, a block of rows at a time.

    Returns
    -------
    dict
        `rel_error_fro` and `rel_error_l1`; 0 for a zero matrix, whose factors are zero as well.
    """
    low, high = (float(bound) for bound in torch.aminmax(matrix))
    peak = max(-low, high) or 1.0  # keeps squares of very large and very small entries in range
    sums = torch.zeros(4, dtype=torch.float64)
    right = factors.right.double()
    for rows, left in zip(matrix.split(CHUNK), factors.left.split(CHUNK), strict=True):
        exact = rows.double()
        gap = (exact - left.double() @ right).div_(peak)
        exact = exact / peak
        terms = (gap.square().sum(), exact.square().sum(), gap.abs().sum(), exact.abs().sum())
        sums += torch.stack(terms).cpu()
    fro, fro_all, l1, l1_all = sums.tolist()
    return {
        "rel_error_fro": math.sqrt(fro / fro_all) if fro else 0.0,
        "rel_error_l1": l1 / l1_all if l1 else 0.0,
    }
