"""Channel slices measured by the error of a layer's outputs on calibration inputs.

With C the covariance of the inputs, the mean squared error of the outputs is ‖(W − Ŵ) C^{1/2}‖_F²,
once the bias is shifted by (W − Ŵ)·E[x]. Each slice keeps the leading right singular vectors of
W_i C_ii^{1/2}, where C_ii is its block of C. Inputs of different slices are correlated, so the
decoder is then fitted to all slices at once, by least squares under the full C. The error is that
of the refitted pair.

If G, the second moment of the loss's gradient at the outputs, is given as well, the loss rises to
second order by half the square of ‖G^{1/2} (W − Ŵ) C^{1/2}‖_F. The slices are then those of
G^{1/2} W.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowrank_bench.alds.curves import Curve, Floats
from lowrank_bench.errors import LowRankError
from lowrank_bench.layers.fold import divisors, fold, kernel_shape

FLOOR = 1e-6  # of the norm of all outputs; weaker directions are left out
RIDGE = 1e-2  # added to the gradients' moment, relative to the mean of its diagonal
JITTER = 1e-10  # added to a Gram matrix with unit diagonal, which may be singular


@dataclass(frozen=True, eq=False)
class Encoders:
    """The encoders of one cut for all ranks, and the linear system of the decoders.

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
        G, tensor f×f float64, which weighs errors of the outputs; None for equal weights.
    scale
        With `gradients`, errors are sqrt(`scale`)·‖G^{1/2} (W − Ŵ) C^{1/2}‖_F; without, they are
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
            # Errors weighted by gradients are plain errors of √G·W; `back` undoes the root.
            root, self.back = roots_of(gradients)
            self.weight = (root @ self.weight.flatten(1)).reshape(self.shape)
        # tr(W C Wᵀ): the squared outputs, which the error is measured against.
        flat = self.weight.flatten(1)
        self.total = max(float(((flat @ covariance) * flat).sum()), 0.0)
        self.unit = max(self.total if gradients is None else 1 / scale, 1e-300)
        self._tables: dict[int, Floats] = {}

    @property
    def groups(self) -> list[int]:
        """Return the numbers of groups: the divisors of c."""
        return divisors(self.shape[1])

    def curve(self, groups: int, ranks: NDArray[np.int64]) -> Curve:
        """Return the errors at these ranks, ‖(W − Ŵ) C^{1/2}‖_F / ‖W C^{1/2}‖_F if relative."""
        # No matrix of the same total rank is better than the best one without slices.
        best = self._best()
        low = best[np.minimum(groups * ranks, len(best) - 1)]
        if groups == 1:
            return Curve.known(low)

        def refine(_: int) -> Floats:
            """Return all errors."""
            errors: Floats = self._table(groups, int(ranks[-1]))[ranks]
            return errors

        return Curve(low * (1 - 1e-7), np.full(len(ranks), np.inf), refine)

    def factors(self, groups: int, rank: int) -> tuple[Tensor, Tensor]:
        """Return decoders k×f×j and encoders k×j×m, each decoder as long as its encoder."""
        encoders = self._encoders(groups, rank)
        solved = torch.cholesky_solve(encoders.target, encoders.factor)
        left = solved.reshape(rank, groups, -1).permute(1, 2, 0)
        left = left if self.back is None else self.back @ left
        right = encoders.rows
        lengths = left.norm(dim=1), right.norm(dim=2)
        both = (lengths[0] > 0) & (lengths[1] > 0)
        scale = torch.where(both, lengths[1] / lengths[0].clamp(min=1e-300), 1.0).sqrt()
        return left * scale.unsqueeze(1), right / scale.unsqueeze(2)

    def _best(self) -> Floats:
        """Return the error at every rank without slices: the least of any matrix of that rank."""
        if 1 not in self._tables:
            flat = self.weight.flatten(1)
            # The Gram matrix of the shorter side of W C^{1/2} has the same eigenvalues.
            if flat.shape[1] >= flat.shape[0]:
                gram = flat @ self.covariance @ flat.T
            else:
                whitened = flat @ symmetric_root(self.covariance)
                gram = whitened.T @ whitened
            squares = torch.linalg.eigvalsh(gram).clamp(min=0)
            lost = torch.cat([squares.cumsum(0).flip(0), squares.new_zeros(1)])
            self._tables[1] = (lost.clamp(max=self.total) / self.unit).sqrt().numpy()
        return self._tables[1]

    def _table(self, groups: int, most: int) -> Floats:
        """Return the error at ranks 0 to `most`."""
        if groups not in self._tables or len(self._tables[groups]) <= most:
            encoders = self._encoders(groups, most)
            # The Cholesky factor orthogonalizes the encoders in order, so the squared outputs that
            # each rank adds can be summed up.
            kept = torch.linalg.solve_triangular(encoders.factor, encoders.target, upper=False)
            gains = kept.square().sum(dim=1).reshape(-1, groups).sum(dim=1).cumsum(0)
            left = self.total - torch.cat([gains.new_zeros(1), gains])
            self._tables[groups] = (left.clamp(min=0) / self.unit).sqrt().numpy()
        return self._tables[groups]

    def _encoders(self, groups: int, most: int) -> Encoders:
        """Return the encoders at rank `most`, which begin with those of lower ranks."""
        parts = fold(self.weight, 0, groups)  # k×f×m
        rows = self._rows(parts, groups, most)
        size = parts.shape[2]
        count = groups * most
        seen = rows @ self.covariance.reshape(groups, size, -1)  # V_i C: k×J×d
        # Ordered by rank, then slice, so that lower ranks are leading blocks.
        seen = seen.transpose(0, 1).reshape(count, -1)
        blocks = seen.reshape(count, groups, size).transpose(0, 1) @ rows.mT  # k×(J·k)×J
        gram = blocks.permute(1, 2, 0).reshape(count, count)
        empty = gram.diagonal() < 0.5  # rows of zeros, if a slice has fewer directions than `most`
        gram.diagonal().add_(empty.to(gram))
        target = seen @ self.weight.flatten(1).T
        return Encoders(rows, _cholesky(gram), target)

    def _rows(self, parts: Tensor, groups: int, most: int) -> Tensor:
        """Return for each slice the rows uᵀ W_i / s of its leading whitened singular vectors."""
        size = parts.shape[2]
        blocks = self.covariance.reshape(groups, size, groups, size)
        blocks = blocks.diagonal(dim1=0, dim2=2).movedim(-1, 0)  # C_ii: k×m×m
        # Left singular vectors of W_i C_ii^{1/2}, from the Gram matrix of its shorter side.
        if size >= parts.shape[1]:
            squares, vectors = torch.linalg.eigh(parts @ blocks @ parts.mT)
            left = vectors.mT.flip(1)[:, :most]
        else:
            whitened = parts @ symmetric_root(blocks)
            squares, vectors = torch.linalg.eigh(whitened.mT @ whitened)
            image = vectors.mT.flip(1)[:, :most] @ whitened.mT
            left = image / image.norm(dim=2, keepdim=True).clamp(min=1e-300)
        values = squares.flip(1)[:, :most].clamp(min=0).sqrt()
        kept = (values > FLOOR * max(self.total, 1e-300) ** 0.5).unsqueeze(2)
        rows = torch.where(kept, left, 0.0) @ parts
        # Small singular values are inaccurate: normalize the rows by their length under C_ii.
        lengths = ((rows @ blocks) * rows).sum(dim=2, keepdim=True).clamp(min=0).sqrt()
        return rows / torch.where(kept & (lengths > 0), lengths, 1.0)


def _cholesky(gram: Tensor) -> Tensor:
    """Return the Cholesky factor of a Gram matrix with unit diagonal, shifted until it exists."""
    factor: Tensor
    added, unit = JITTER, gram.diagonal().clone()
    while math.isfinite(added):
        gram.diagonal().copy_(unit + added)
        factor, failed = torch.linalg.cholesky_ex(gram)
        if not failed:
            return factor
        added *= 100
    raise LowRankError("the inputs' covariance is NaN or infinite; check the calibration data")


def shrunk(covariance: Tensor, count: int) -> Tensor:
    """Return a covariance d×d of `count` rows, shrunk towards a multiple of the identity.

    A few rows span few directions, and decoders fitted to them alone would have large errors in
    others. The amount of shrinkage follows from the number of rows and the spectrum; for many rows
    it is close to zero.

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
    """Return the symmetric roots of a batch of positive semidefinite matrices."""
    squares, vectors = torch.linalg.eigh(matrices)
    roots: Tensor = (vectors * squares.clamp(min=0).sqrt().unsqueeze(-2)) @ vectors.mT
    return roots


def roots_of(moment: Tensor) -> tuple[Tensor, Tensor]:
    """Return the root of a second moment f×f and its inverse.

    A hundredth of the mean is added to all directions: a few rows without a gradient do not prove
    that errors there are free.
    """
    floor = RIDGE * float(moment.trace()) / len(moment)
    squares, vectors = torch.linalg.eigh(moment)
    values = (squares.clamp(min=0) + max(floor, 1e-300)).sqrt()
    return (vectors * values) @ vectors.T, (vectors / values) @ vectors.T


def mean_shift(weight: Tensor, replaced: Tensor, mean: Tensor) -> Tensor:
    """Return (W − Ŵ)·E[x], float64 f, which is added to the bias."""
    gap = weight.detach().to(torch.float64).flatten(1) - replaced.to(torch.float64).flatten(1)
    return gap @ mean.to(gap)
