"""The errors of slicing and truncating a weight, all relative to the weight.

Each is a function (slices, groups, ranks) → `Curve` over these ranks. Ŵ is W with each of its k
slices W_i truncated at rank j; σ_{i,j+1} is the first singular value that slice i loses.

========== ==============================================================
spectral   ‖W − Ŵ‖ / ‖W‖, exact
bound      √k · max_i σ_{i,j+1} / ‖W‖, which is at least the spectral one
unscaled   max_i σ_{i,j+1} / ‖W‖, which is at most the spectral one
frobenius  ‖W − Ŵ‖_F / ‖W‖_F, exact
========== ==============================================================

References
----------
Liebenwein et al., "Compressing Neural Networks: Towards Determining the Optimal Layer-wise
Decomposition", NeurIPS 2021: Theorem 1 is `bound`. The code published with it minimizes
`unscaled`, in which more groups cost nothing.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]  # has no types
from torch import Tensor

from lowrank_bench.alds.curves import Curve, Floats
from lowrank_bench.alds.slices import RECENT, Slices

LARGE = 256  # singular values; of slices with more, they are computed only on demand
BLOCKS = 8  # of ranks, whose Gram matrices are kept
NOTHING = 1e-12  # of ‖W‖_F²; a smaller loss is rounding error
ITERATE = 100  # rows; the largest eigenvalue of larger matrices is computed by iteration

Ranks = NDArray[np.int64]
Table = Callable[[Slices, int], Floats]  # the error at every rank 0..r


def unscaled(slices: Slices, groups: int, ranks: Ranks) -> Curve:
    """Return the largest singular value that any slice loses, over ‖W‖."""

    def below(k: int) -> Floats:
        """Return the bound by Weyl's inequality: the slices' Gram matrices add up to that of W."""
        errors: Floats = _pick(_largest(slices, 1), k * ranks) / np.sqrt(k)
        return errors

    return _table_curve(slices, groups, ranks, _largest, below, lambda finer: 1.0)


def bound(slices: Slices, groups: int, ranks: Ranks) -> Curve:
    """Return the bound of Theorem 1."""

    def table(slices: Slices, k: int) -> Floats:
        """Return the bound at every rank."""
        values: Floats = np.sqrt(k) * _largest(slices, k)
        return values

    def below(k: int) -> Floats:
        """Return the error of the best matrix of rank k·j, which Theorem 1's bound exceeds."""
        return _pick(_largest(slices, 1), k * ranks)

    return _table_curve(slices, groups, ranks, table, below, lambda k: np.sqrt(groups / k))


def frobenius(slices: Slices, groups: int, ranks: Ranks) -> Curve:
    """Return the relative error in the Frobenius norm."""

    def table(slices: Slices, k: int) -> Floats:
        """Return the error at every rank."""
        squares = slices.values(k).square().sum(dim=0)
        lost = torch.cat([squares.flip(0).cumsum(0).flip(0), squares.new_zeros(1)])
        errors: Floats = (lost / max(float(lost[0]), np.finfo(float).tiny)).sqrt().numpy()
        return errors

    def below(k: int) -> Floats:
        """Return the error of the best matrix of rank k·j: the rank of Ŵ is at most that."""
        return _pick(table(slices, 1), k * ranks)

    return _table_curve(slices, groups, ranks, table, below, lambda finer: 1.0)


def spectral(slices: Slices, groups: int, ranks: Ranks) -> Curve:
    """Return the relative error in the spectral norm: exact, computed for one rank at a time.

    ‖W − Ŵ‖² is the largest eigenvalue of Σ_i Σ_{l>j} σ_il² u_il u_ilᵀ. It is at least the largest
    eigenvalue of one slice's part and at least the mean eigenvalue; it is at most the sum of the
    slices' largest eigenvalues.
    """
    if groups == 1:
        return Curve.known(_pick(_largest(slices, 1), ranks))
    norm, rows = slices.norm or 1.0, slices.rows
    squares = (slices.values(groups).numpy() / norm) ** 2
    # Upper bounds: the sum of the slices' first lost squares, and the sum of all lost squares.
    first = _pick(np.append(squares.sum(axis=0), 0.0), ranks)
    lost = _pick(np.append(squares.sum(axis=0)[::-1].cumsum()[::-1], 0.0), ranks)
    # Lower bounds: one slice, the mean eigenvalue, and the best matrix of the same rank.
    low = np.maximum(_pick(_largest(slices, groups), ranks), np.sqrt(lost / rows))
    low = np.maximum(low, _pick(_largest(slices, 1), groups * ranks))

    def refine(index: int) -> tuple[float, Floats]:
        """Return the error at one rank, and lower bounds at all ranks, equal to it there."""
        residual = RECENT.get(slices, ("residual", groups), lambda: Residual(slices, groups))
        value, below = residual.norm(int(ranks[index]))
        # The bounds are exact but for rounding, the norm only to the iteration's tolerance.
        return value / norm, _pick(below, ranks) / norm * (1 - 1e-9)

    # The bounds come from singular values that were rounded differently.
    return Curve(low * (1 - 1e-7), np.sqrt(np.minimum(first, lost)) * (1 + 1e-7), refine)


ERRORS: dict[str, Callable[[Slices, int, Ranks], Curve]] = {
    "spectral": spectral,
    "bound": bound,
    "unscaled": unscaled,
    "frobenius": frobenius,
}


class Residual:
    """The spectral norm of W − Ŵ for one cut at any rank.

    Parameters
    ----------
    slices, groups
        The slices, and their number k.
    """

    def __init__(self, slices: Slices, groups: int) -> None:
        ranks, rows = slices.ranks(groups), slices.rows
        # Vectors are ordered by rank, so that those a truncation loses are the last ones.
        self.start: Tensor | None = None
        self.groups, self.short = groups, groups * ranks <= rows
        if self.short:
            self.products = slices.products(groups)
            self.total = float(self.products.diagonal().sum())
            return
        rotated = slices.rotated(groups)
        self.vectors = rotated.transpose(0, 1).reshape(ranks * groups, rows)
        # Gram matrices of the last blocks of vectors; a query adds only the rest of one block.
        size = -(-ranks // BLOCKS) * groups
        self.edges = [*range(0, ranks * groups, size), ranks * groups]
        self.tails: list[Tensor] = []
        total = rotated.new_zeros(rows, rows)
        for start, stop in reversed(list(zip(self.edges, self.edges[1:], strict=False))):
            self.tails.insert(0, total)
            part = self.vectors[start:stop]
            total = total + part.T @ part
        self.tails.insert(0, total)

    def norm(self, rank: int) -> tuple[float, Floats]:
        """Return ‖W − Ŵ‖ at rank j, and lower bounds at all ranks 0..r, equal to it at rank j.

        The bound at another rank is ‖(W − Ŵ)ᵀ x‖ there, for the unit vector x that attains the norm
        at rank j.
        """
        start = rank * self.groups
        if self.short:
            lost = self.products[start:, start:]
        else:
            place = next(n for n, edge in enumerate(self.edges) if edge >= start)
            part = self.vectors[start : self.edges[place]]
            lost = self.tails[place] + part.T @ part
        square, vector = largest_eigenpair(lost, self.start)
        if not self.short:
            self.start, image = vector, self.vectors @ vector
        elif square > NOTHING * self.total:
            # The coefficients give a sum of σ_l u_l whose length is √square.
            image = (self.products[:, start:] @ vector) / square**0.5
        else:  # only rounding errors are left, which give no bound
            image = self.products.new_zeros(len(self.products))
        # Squared products with all vectors, summed from each rank on.
        image = image.square().reshape(-1, self.groups).sum(dim=1)
        below = torch.cat([image.flip(0).cumsum(0).flip(0), image.new_zeros(1)])
        return max(square, 0.0) ** 0.5, below.sqrt().numpy()


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def largest_eigenpair(matrix: Tensor, start: Tensor | None = None) -> tuple[float, Tensor]:
    """Return the largest eigenvalue of a symmetric matrix, to 1e-9, and its eigenvector.

    Parameters
    ----------
    start
        An estimate of the eigenvector.
    """
    size = len(matrix)
    if size >= ITERATE:
        # The start has a part in every direction, so it cannot be another eigenvalue's vector.
        guess = torch.ones(size, dtype=matrix.dtype) / size**0.5
        wave = torch.arange(size, dtype=matrix.dtype).mul(2.399963).cos() / size**0.5
        guess = (guess if start is None else start) + 0.3 * wave

        def product(vector: np.ndarray) -> Floats:
            """Return the matrix times a vector."""
            return (matrix @ torch.from_numpy(vector).reshape(-1)).numpy()

        operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
        try:
            # With vectors this short, BLAS threads would mostly wait for each other.
            with _blas().limit(limits=1, user_api="blas"):
                values, vectors = eigsh(operator, 1, which="LA", v0=guess.numpy(), tol=1e-9)
        except ArpackError:
            pass
        else:
            return float(values[0]), torch.from_numpy(vectors[:, 0].copy())
    if not size:
        return 0.0, matrix.new_zeros(0)
    values, vectors = torch.linalg.eigh(matrix)
    return float(values[-1]), vectors[:, -1]


def _largest(slices: Slices, groups: int) -> Floats:
    """Return max_i σ_{i,j+1} / ‖W‖ for j = 0..r."""
    largest = slices.values(groups).amax(dim=0).numpy() / (slices.norm or 1.0)
    return np.append(largest, 0.0)


def _pick(table: Floats, ranks: Ranks) -> Floats:
    """Return the table at these ranks; beyond its end, its last entry."""
    return table[np.minimum(ranks, len(table) - 1)]


def _table_curve(
    slices: Slices,
    groups: int,
    ranks: Ranks,
    table: Table,
    below: Callable[[int], Floats],
    scale: Callable[[int], float],
) -> Curve:
    """Return the curve of a table; for large slices it starts from lower bounds.

    A slice loses at least as much as each of its parts at the same rank. So for a multiple k of the
    groups, `scale`(k) times the table of k is a lower bound too.
    """
    if slices.ranks(groups) <= LARGE or groups == 1:
        return Curve.known(_pick(table(slices, groups), ranks))
    low = below(groups)
    for finer in slices.known:
        if finer > groups and finer % groups == 0:
            low = np.maximum(low, scale(finer) * _pick(table(slices, finer), ranks))

    def refine(_: int) -> Floats:
        """Return all errors."""
        return _pick(table(slices, groups), ranks)

    return Curve(low * (1 - 1e-7), np.full(len(ranks), np.inf), refine)
