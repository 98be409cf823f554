"""Channel slices judged by what a layer's outputs lose on its inputs, not by its weight alone.

With C the covariance of the inputs, the outputs lose ‖(W − Ŵ) C^{1/2}‖_F² on average; a shift of
the bias by (W − Ŵ)·E[x] takes the mean's part. Each slice keeps the leading right singular vectors
of W_i C_ii^{1/2}, C_ii its own block of C. Inputs of different slices are correlated, so the
decoder is then fitted to all slices at once, by least squares under the full C; the error is that
of the refitted pair.

With G the second moment of the loss's gradient at the outputs as well, half the square of
‖G^{1/2} (W − Ŵ) C^{1/2}‖_F is what the loss rises by, to second order: the same slices, but of
G^{1/2} W.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lowrank_bench.alds.curves import Curve
from lowrank_bench.errors import LowRankError
from lowrank_bench.layers.fold import divisors, fold, kernel_shape

FLOOR = 1e-6  # of the length of all outputs; directions that say less are left out
RIDGE = 1e-2  # of the gradients' moment, of the mean of its diagonal
JITTER = 1e-10  # on a Gram matrix with unit diagonal, where slices say the same


@dataclass(frozen=True, eq=False)
class Encoders:
    """The encoders of one cut for all ranks, and what the decoders are solved from.

    Attributes
    ----------
    rows
        Tensor k×J×m: rows v with v C_ii vᵀ = 1, most important first.
    factor
        Tensor (J·k)×(J·k): Cholesky factor of V C Vᵀ, ordered by rank, then slice.
    target
        Tensor (J·k)×f: V C Wᵀ in the same order.
    """

    rows: Tensor
    factor: Tensor
    target: Tensor


class Whitened:
    """The slices of one weight under the covariance of its inputs.

    Parameters
    ----------
    weight
        Tensor f×c×k1×k2 or out×in.
    covariance
        Tensor d×d float64, d = c·k1·k2 ordered channel by channel.
    gradients
        Tensor f×f float64: how much errors of the outputs matter; None: all alike.
    scale
        Errors are then sqrt(`scale`)·‖G^{1/2} (W − Ŵ) C^{1/2}‖_F; without `gradients` they are
        relative.
    """

    def __init__(
        self,
        weight: Tensor,
        covariance: Tensor,
        gradients: Tensor | None = None,
        scale: float = 1.0,
    ) -> None:
        self.shape = kernel_shape(tuple(weight.shape))
        self.weight = weight.detach().to(torch.float64).reshape(self.shape)
        self.covariance = covariance
        self.back: Tensor | None = None
        if gradients is not None:
            root, self.back = roots_of(gradients)
            self.weight = (root @ self.weight.flatten(1)).reshape(self.shape)
        flat = self.weight.flatten(1)
        self.total = max(float(((flat @ covariance) * flat).sum()), 0.0)
        self.unit = max(self.total if gradients is None else 1 / scale, 1e-300)
        self._tables: dict[int, np.ndarray] = {}

    @property
    def groups(self) -> list[int]:
        """Return the numbers of groups: the divisors of c."""
        return divisors(self.shape[1])

    def curve(self, groups: int, ranks: np.ndarray) -> Curve:
        """Return the errors at these ranks, ‖(W − Ŵ) C^{1/2}‖_F / ‖W C^{1/2}‖_F if relative."""
        best = self._best()
        low = best[np.minimum(groups * ranks, len(best) - 1)]
        if groups == 1:
            return Curve.known(low)

        def refine(_: int) -> np.ndarray:
            """Return all errors."""
            return self._table(groups, int(ranks[-1]))[ranks]

        return Curve(low * (1 - 1e-7), np.full(len(ranks), np.inf), refine)

    def factors(self, groups: int, rank: int) -> tuple[Tensor, Tensor]:
        """Return decoders k×f×j and encoders k×j×m, of the same length for each unit of rank."""
        found = self._encoders(groups, rank)
        solved = torch.cholesky_solve(found.target, found.factor)
        left = solved.reshape(rank, groups, -1).permute(1, 2, 0)
        left = left if self.back is None else self.back @ left
        right = found.rows
        lengths = left.norm(dim=1), right.norm(dim=2)
        both = (lengths[0] > 0) & (lengths[1] > 0)
        scale = torch.where(both, lengths[1] / lengths[0].clamp(min=1e-300), 1.0).sqrt()
        return left * scale.unsqueeze(1), right / scale.unsqueeze(2)

    def _best(self) -> np.ndarray:
        """Return the error at every rank without slices: the least that any matrix reaches."""
        if 1 not in self._tables:
            flat = self.weight.flatten(1)
            if flat.shape[1] >= flat.shape[0]:
                gram = flat @ self.covariance @ flat.T
            else:
                whitened = flat @ symmetric_root(self.covariance)
                gram = whitened.T @ whitened
            squares = torch.linalg.eigvalsh(gram).clamp(min=0)
            lost = torch.cat([squares.cumsum(0).flip(0), squares.new_zeros(1)])
            self._tables[1] = (lost.clamp(max=self.total) / self.unit).sqrt().numpy()
        return self._tables[1]

    def _table(self, groups: int, most: int) -> np.ndarray:
        """Return the error at ranks 0 to `most`."""
        if groups not in self._tables or len(self._tables[groups]) <= most:
            found = self._encoders(groups, most)
            kept = torch.linalg.solve_triangular(found.factor, found.target, upper=False)
            gains = kept.square().sum(dim=1).reshape(-1, groups).sum(dim=1).cumsum(0)
            left = self.total - torch.cat([gains.new_zeros(1), gains])
            self._tables[groups] = (left.clamp(min=0) / self.unit).sqrt().numpy()
        return self._tables[groups]

    def _encoders(self, groups: int, most: int) -> Encoders:
        """Return the encoders at rank `most`; those of a lower rank are the first of them."""
        parts = fold(self.weight, 0, groups)  # k×f×m
        rows = self._rows(parts, groups, most)
        size = parts.shape[2]
        count = groups * most
        seen = rows @ self.covariance.reshape(groups, size, -1)  # V_i C: k×J×d
        seen = seen.transpose(0, 1).reshape(count, -1)
        blocks = seen.reshape(count, groups, size).transpose(0, 1) @ rows.mT  # k×(J·k)×J
        gram = blocks.permute(1, 2, 0).reshape(count, count)
        empty = gram.diagonal() < 0.5  # rows of zeros, where a slice has no further direction
        gram.diagonal().add_(empty.to(gram))
        target = seen @ self.weight.flatten(1).T
        return Encoders(rows, _cholesky(gram), target)

    def _rows(self, parts: Tensor, groups: int, most: int) -> Tensor:
        """Return for each slice the rows uᵀ W_i / s of its leading whitened singular vectors."""
        size = parts.shape[2]
        own = self.covariance.reshape(groups, size, groups, size)
        own = own.diagonal(dim1=0, dim2=2).movedim(-1, 0)
        if size >= parts.shape[1]:
            squares, vectors = torch.linalg.eigh(parts @ own @ parts.mT)
            left = vectors.mT.flip(1)[:, :most]
        else:
            whitened = parts @ symmetric_root(own)
            squares, vectors = torch.linalg.eigh(whitened.mT @ whitened)
            image = vectors.mT.flip(1)[:, :most] @ whitened.mT
            left = image / image.norm(dim=2, keepdim=True).clamp(min=1e-300)
        values = squares.flip(1)[:, :most].clamp(min=0).sqrt()
        kept = (values > FLOOR * max(self.total, 1e-300) ** 0.5).unsqueeze(2)
        rows = torch.where(kept, left, 0.0) @ parts
        # Small values are not right to all digits; what the inputs say of the rows is.
        lengths = ((rows @ own) * rows).sum(dim=2, keepdim=True).clamp(min=0).sqrt()
        return rows / torch.where(kept & (lengths > 0), lengths, 1.0)


def _cholesky(gram: Tensor) -> Tensor:
    """Return the factor of a Gram matrix with unit diagonal; as much as it takes is added to it."""
    added, unit = JITTER, gram.diagonal().clone()
    while math.isfinite(added):
        gram.diagonal().copy_(unit + added)
        factor, failed = torch.linalg.cholesky_ex(gram)
        if not failed:
            return factor
        added *= 100
    raise LowRankError("the inputs' covariance is NaN or infinite; check the calibration data")


def shrunk(covariance: Tensor, count: int) -> Tensor:
    """Return a covariance d×d of `count` rows, drawn towards a multiple of the identity.

    Few rows span few directions, and decoders fitted to these alone would be wild on others. How
    far to draw follows from the rows and the spectrum; for many rows it is next to nothing.

    References
    ----------
    Chen, Wiesel, Eldar, Hero, "Shrinkage algorithms for MMSE covariance estimation", IEEE
    Transactions on Signal Processing 58 (2010), eq. (23): the oracle approximating shrinkage.
    """
    size = len(covariance)
    trace, squares = float(covariance.trace()), float(covariance.square().sum())
    spread = (count + 1 - 2 / size) * (squares - trace**2 / size)
    share = 1.0 if spread <= 0 else min(((1 - 2 / size) * squares + trace**2) / spread, 1.0)
    drawn = (1 - share) * covariance
    drawn.diagonal().add_(share * trace / size)
    return drawn


def symmetric_root(matrices: Tensor) -> Tensor:
    """Return the roots of a batch of positive semidefinite matrices."""
    squares, vectors = torch.linalg.eigh(matrices)
    return (vectors * squares.clamp(min=0).sqrt().unsqueeze(-2)) @ vectors.mT


def roots_of(moment: Tensor) -> tuple[Tensor, Tensor]:
    """Return the root of a second moment f×f and its inverse.

    Directions in which nothing was seen get a hundredth of the mean: few rows do not prove that an
    error there is free.
    """
    floor = RIDGE * float(moment.trace()) / len(moment)
    squares, vectors = torch.linalg.eigh(moment)
    values = (squares.clamp(min=0) + max(floor, 1e-300)).sqrt()
    return (vectors * values) @ vectors.T, (vectors / values) @ vectors.T


def mean_shift(weight: Tensor, replaced: Tensor, mean: Tensor) -> Tensor:
    """Return (W − Ŵ)·E[x], float64 f, which the bias takes over."""
    gap = weight.detach().to(torch.float64).flatten(1) - replaced.to(torch.float64).flatten(1)
    return gap @ mean.to(gap)
