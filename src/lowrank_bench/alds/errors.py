"""The errors by which slicing and truncating a weight can be judged, all relative to the weight.

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
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from threadpoolctl import ThreadpoolController
from torch import Tensor

from lowrank_bench.alds.curves import Curve
from lowrank_bench.alds.slices import RECENT, Slices

LARGE = 256  # vectors; the singular values of longer slices are computed where they are asked for
BLOCKS = 8
NOTHING = 1e-12  # of ‖W‖_F²; what rounding makes of a loss of nothing is less
ITERATE = 100  # rows; the largest eigenvalue of larger matrices is iterated

Table = Callable[[Slices, int], np.ndarray]


def unscaled(slices: Slices, groups: int, ranks: np.ndarray) -> Curve:
    """Return the largest singular value that a slice loses, over ‖W‖."""

    def below(k: int) -> np.ndarray:
        """Return Weyl's inequality, the slices' Grams summing to that of W."""
        return _pick(_largest(slices, 1), k * ranks) / np.sqrt(k)

    return _table_curve(slices, groups, ranks, _largest, below, lambda finer: 1.0)


def bound(slices: Slices, groups: int, ranks: np.ndarray) -> Curve:
    """Return the bound of Theorem 1."""

    def table(slices: Slices, k: int) -> np.ndarray:
        """Return the bound at every rank."""
        return np.sqrt(k) * _largest(slices, k)

    def below(k: int) -> np.ndarray:
        """Return the error of the best matrix of rank k·j, which Theorem 1's is above."""
        return _pick(_largest(slices, 1), k * ranks)

    return _table_curve(slices, groups, ranks, table, below, lambda k: np.sqrt(groups / k))


def frobenius(slices: Slices, groups: int, ranks: np.ndarray) -> Curve:
    """Return the relative error in the Frobenius norm."""

    def table(slices: Slices, k: int) -> np.ndarray:
        """Return the error at every rank."""
        squares = slices.values(k).square().sum(dim=0)
        lost = torch.cat([squares.flip(0).cumsum(0).flip(0), squares.new_zeros(1)])
        return (lost / max(float(lost[0]), np.finfo(float).tiny)).sqrt().numpy()

    def below(k: int) -> np.ndarray:
        """Return the error of the best matrix of rank k·j, which Ŵ has at most."""
        return _pick(table(slices, 1), k * ranks)

    return _table_curve(slices, groups, ranks, table, below, lambda finer: 1.0)


def spectral(slices: Slices, groups: int, ranks: np.ndarray) -> Curve:
    """Return the relative error in the spectral norm: exact, each rank where it is asked for.

    ‖W − Ŵ‖² is the largest eigenvalue of Σ_i Σ_{l>j} σ_il² u_il u_ilᵀ. It lies between that of one
    slice, or the mean eigenvalue, and the sum of the slices' largest.
    """
    if groups == 1:
        return Curve.known(_pick(_largest(slices, 1), ranks))
    norm, rows = slices.norm or 1.0, slices.rows
    squares = (slices.values(groups).numpy() / norm) ** 2
    first = _pick(np.append(squares.sum(axis=0), 0.0), ranks)
    lost = _pick(np.append(squares.sum(axis=0)[::-1].cumsum()[::-1], 0.0), ranks)
    low = np.maximum(_pick(_largest(slices, groups), ranks), np.sqrt(lost / rows))
    low = np.maximum(low, _pick(_largest(slices, 1), groups * ranks))

    def refine(index: int) -> tuple[float, np.ndarray]:
        """Return the error at one rank and the lower bounds that touch it there."""
        residual = RECENT.get(slices, ("residual", groups), lambda: Residual(slices, groups))
        value, below = residual.norm(int(ranks[index]))
        # What a vector shows is right to rounding, the norm itself to the iteration's tolerance.
        return value / norm, _pick(below, ranks) / norm * (1 - 1e-9)

    # The bounds come from singular values with rounding of their own.
    return Curve(low * (1 - 1e-7), np.sqrt(np.minimum(first, lost)) * (1 + 1e-7), refine)


ERRORS: dict[str, Callable[[Slices, int, np.ndarray], Curve]] = {
    "spectral": spectral,
    "bound": bound,
    "unscaled": unscaled,
    "frobenius": frobenius,
}


class Residual:
    """The spectral norm of what truncation loses, for one cut at any rank.

    Parameters
    ----------
    slices, groups
        The slices, of which the cut makes k.
    """

    def __init__(self, slices: Slices, groups: int) -> None:
        ranks, rows = slices.ranks(groups), slices.rows
        # Rank first, so that what a truncation loses is the end of the list.
        self.start: Tensor | None = None
        self.groups, self.short = groups, groups * ranks <= rows
        if self.short:
            self.products = slices.products(groups)
            self.total = float(self.products.diagonal().sum())
            return
        rotated = slices.rotated(groups)
        self.vectors = rotated.transpose(0, 1).reshape(ranks * groups, rows)
        size = -(-ranks // BLOCKS) * groups
        self.edges = [*range(0, ranks * groups, size), ranks * groups]
        total, self.tails = rotated.new_zeros(rows, rows), []
        for start, stop in reversed(list(zip(self.edges, self.edges[1:], strict=False))):
            self.tails.insert(0, total)
            part = self.vectors[start:stop]
            total = total + part.T @ part
        self.tails.insert(0, total)

    def norm(self, rank: int) -> tuple[float, np.ndarray]:
        """Return ‖W − Ŵ‖ at rank j, and a lower bound at every rank 0..r that touches it there.

        The bound is the length that W − Ŵ gives to the vector that is longest at rank j.
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
        elif square > NOTHING * self.total:  # the vector of rows is a sum of σ_l u_l, √square long
            image = (self.products[:, start:] @ vector) / square**0.5
        else:  # rounding alone, which shows no bound
            image = self.products.new_zeros(len(self.products))
        image = image.square().reshape(-1, self.groups).sum(dim=1)
        below = torch.cat([image.flip(0).cumsum(0).flip(0), image.new_zeros(1)])
        return max(square, 0.0) ** 0.5, below.sqrt().numpy()


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def largest_eigenpair(matrix: Tensor, start: Tensor | None = None) -> tuple[float, Tensor]:
    """Return the largest eigenvalue of a symmetric matrix, to 1e-9, and its vector.

    Parameters
    ----------
    start
        A vector near the one that is sought.
    """
    size = len(matrix)
    if size >= ITERATE:
        # Something of every direction, lest the start be an eigenvector of another eigenvalue.
        guess = torch.ones(size, dtype=matrix.dtype) / size**0.5
        wave = torch.arange(size, dtype=matrix.dtype).mul(2.399963).cos() / size**0.5
        guess = (guess if start is None else start) + 0.3 * wave

        def product(vector: np.ndarray) -> np.ndarray:
            """Return the matrix times a vector."""
            return (matrix @ torch.from_numpy(vector).reshape(-1)).numpy()

        operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
        try:
            # Threads would wait for one another: the iteration's own vectors are short.
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


def _largest(slices: Slices, groups: int) -> np.ndarray:
    """Return max_i σ_{i,j+1} / ‖W‖ for j = 0..r."""
    largest = slices.values(groups).amax(dim=0).numpy() / (slices.norm or 1.0)
    return np.append(largest, 0.0)


def _pick(table: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Return the table at these ranks, its last entry beyond its end."""
    return table[np.minimum(ranks, len(table) - 1)]


def _table_curve(
    slices: Slices,
    groups: int,
    ranks: np.ndarray,
    table: Table,
    below: Callable[[int], np.ndarray],
    scale: Callable[[int], float],
) -> Curve:
    """Return the curve of a table, with lower bounds in place of it where slices are long.

    A slice loses at least as much as each of its parts does at that rank: `scale`(k) times the
    table of a multiple k of the groups is a bound too.
    """
    if slices.ranks(groups) <= LARGE or groups == 1:
        return Curve.known(_pick(table(slices, groups), ranks))
    low = below(groups)
    for finer in slices.known:
        if finer > groups and finer % groups == 0:
            low = np.maximum(low, scale(finer) * _pick(table(slices, finer), ranks))

    def refine(_: int) -> np.ndarray:
        """Return all errors."""
        return _pick(table(slices, groups), ranks)

    return Curve(low * (1 - 1e-7), np.full(len(ranks), np.inf), refine)
