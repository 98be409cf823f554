"""The approximations of one layer's matrix by a matrix method."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.layerwise.spectra import Spectrum, balanced
from lowrank_bench.linalg.decomposition import Decomposition, Projection, Single
from lowrank_bench.linalg.factors import Approximation, Factors
from lowrank_bench.problem import Problem

# Numbers of ranks at which spectral norms and whole fits are computed; others are interpolated.
NORMS, FITS = 24, 6


class Approximator(Protocol):
    """A matrix method, as `methods.MatrixMethod`; its `repr` shows all parameters."""

    @property
    def nested(self) -> bool:
        """Return whether one decomposition serves every rank."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """Return which facts are needed in addition to the weights."""
        ...

    def label(self) -> str:
        """Return the name of the method with its parameters, as messages show it."""
        ...

    @classmethod
    def decomposition_class(cls) -> type[Decomposition]:
        """Return the class of what `decompose` returns."""
        ...

    def decompose(self, problem: Problem) -> Decomposition:
        """Decompose a matrix m×n, once for every rank or for `problem.rank`."""
        ...


class FittedSpectrum(Spectrum):
    """The approximations of an m×n matrix by a method, with unweighted errors.

    The method gets the matrix with its longer side as the rows. If one decomposition serves all
    ranks, the Frobenius errors are exact and the spectral errors are computed at `NORMS` ranks.
    Otherwise the matrix is fitted at `FITS` ranks, and both errors are computed there. In between,
    logarithms are interpolated.

    Raises
    ------
    LowRankError
        When the method returns more than two factors, or none, as a code.
    """

    def __init__(self, matrix: Tensor, method: Approximator) -> None:
        self.turned = matrix.shape[0] < matrix.shape[1]
        self.matrix = matrix.T.contiguous() if self.turned else matrix
        self.method = method
        self.projection: Projection | None = None
        if not issubclass(method.decomposition_class(), Projection | Single):
            raise unfit(method)
        if method.nested:
            decomposition = method.decompose(Problem(self.matrix))
            if not isinstance(decomposition, Projection) or decomposition.mean is not None:
                raise unfit(method)
            self.projection = decomposition
            self.squares, self.peaks = _projected_errors(decomposition)
        else:
            self.squares, self.peaks = self._fitted_errors()

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """Return the factors of the method, m×k and k×n."""
        factors = self._fit(rank)
        if self.turned:
            return balanced(factors.right.T, factors.left.T)
        return balanced(factors.left, factors.right)

    def _fit(self, rank: int) -> Factors:
        if self.projection is not None:
            factors: Approximation = self.projection.factors(rank)
        else:
            factors = self.method.decompose(Problem(self.matrix, rank)).factors(rank)
        if not isinstance(factors, Factors) or factors.bias is not None:
            raise unfit(self.method)
        return factors

    def _fitted_errors(self) -> tuple[Tensor, Tensor]:
        ranks = spread(self.matrix.shape[1], FITS)
        errors = [self.matrix - self._fit(rank).dense() for rank in ranks[1:-1]]
        errors = [self.matrix, *errors, torch.zeros_like(self.matrix)]
        squares = [float(error.square().sum()) for error in errors]
        peaks = [float(torch.linalg.matrix_norm(error, 2)) ** 2 for error in errors]
        return _between(ranks, squares), _between(ranks, peaks)


def unfit(method: Approximator) -> LowRankError:
    """Return the error for a method whose factors cannot replace a layer."""
    return LowRankError(
        f"{method.label()} gives more than two factors, which cannot replace a convolution or a "
        "linear layer; take svd, lp, l21 or irls, without a mean row"
    )


def _projected_errors(projection: Projection) -> tuple[Tensor, Tensor]:
    """Return the squared Frobenius and spectral errors for ranks 0..n."""
    images = projection.matrix @ projection.basis
    gram = images.T @ images
    # The error at rank k is the matrix in the directions from k on: a trailing block of the Gram.
    squares = torch.cat([gram.diagonal().flip(0).cumsum(0).flip(0), gram.new_zeros(1)])
    ranks = spread(len(gram), NORMS)
    peaks = [float(torch.linalg.eigvalsh(gram[k:, k:])[-1]) for k in ranks[:-1]]
    return squares, _between(ranks, [*peaks, 0.0])


def spread(most: int, count: int) -> list[int]:
    """Return about `count` whole numbers from 0 to `most`, both included, denser at the low end."""
    inner = np.geomspace(1, max(most, 1), max(count, 2)).round().astype(int)
    return sorted({0, *inner.tolist(), most})


def _between(ranks: Sequence[int], values: Sequence[float]) -> Tensor:
    """Return falling values for ranks 0..last: logarithms interpolated, the last value exact."""
    floor = max(values[0], 1e-300) * 1e-16
    logs = np.log(np.maximum(np.minimum.accumulate(values), floor))
    full = np.exp(np.interp(np.arange(ranks[-1] + 1), ranks, logs))
    full[-1] = values[-1]
    return torch.from_numpy(full)
