"""Singular values and vectors of all channel slices of a weight, for all numbers of groups.

Each slice is decomposed through the Gram matrix of its shorter side in float64, so singular values
are accurate to about 1e-8 of the largest, and smaller ones cannot be distinguished from zero. Gram
matrices are computed for only two numbers of groups. Of wide slices, the Gram matrix of two side by
side is the sum of theirs; of a tall slice, the Gram matrix of a half is a diagonal block of the
whole one.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank_bench.alds.recent import Recent
from lowrank_bench.layers.fold import Shape, divisors, fold, kernel_shape, matrix_shape

RECENT = Recent(2**31)  # bytes
FLOOR = 1e-7  # of the largest singular value; smaller ones are never divided by


@dataclass(frozen=True, eq=False)
class Bases:
    """Singular values of each slice, falling, and the singular vectors of one side.

    Attributes
    ----------
    values
        Tensor k×r: singular values.
    vectors
        Tensor k×r×rows of left singular vectors, or k×r×columns of right ones if slices are tall.
    wide
        Whether the vectors are the left ones.
    """

    values: Tensor
    vectors: Tensor
    wide: bool


class Slices:
    """The slices of one weight under one folding scheme.

    Parameters
    ----------
    weight
        Tensor f×c×k1×k2 or out×in, finite.
    scheme
        Folding scheme, 0 to 3.
    """

    def __init__(self, weight: Tensor, scheme: int = 0) -> None:
        self.shape: Shape = kernel_shape(tuple(weight.shape))
        self.scheme = scheme
        self.weight = weight.detach().to(torch.float64).reshape(self.shape)
        self._grams: dict[int, Tensor] = {}
        self._values: dict[int, Tensor] = {}

    @property
    def groups(self) -> list[int]:
        """Return the numbers of groups: the divisors of c."""
        return divisors(self.shape[1])

    @property
    def known(self) -> set[int]:
        """Return the numbers of groups whose singular values have been computed."""
        return set(self._values)

    @property
    def rows(self) -> int:
        """Return the number of rows of the slices, the same for all numbers of groups."""
        return matrix_shape(self.shape, self.scheme, 1)[0]

    def matrices(self, groups: int) -> Tensor:
        """Return the slices, k×rows×columns."""
        return fold(self.weight, self.scheme, groups)

    def wide(self, groups: int) -> bool:
        """Return whether slices have at least as many columns as rows."""
        rows, columns = matrix_shape(self.shape, self.scheme, groups)
        return columns >= rows

    def ranks(self, groups: int) -> int:
        """Return r, the number of singular values of a slice."""
        return min(matrix_shape(self.shape, self.scheme, groups))

    def gram(self, groups: int) -> Tensor:
        """Return the Gram matrices of the slices' shorter sides, k×r×r."""
        alike = [k for k in self.groups if self.wide(k) == self.wide(groups)]
        if self.wide(groups):  # add up the Gram matrices of the finest slices that are wide
            source = max(k for k in alike if k % groups == 0)
            fine = self._product(source)
            return fine.reshape(groups, source // groups, *fine.shape[1:]).sum(dim=1)
        # Tall slices: take the diagonal blocks out of the Gram matrix of the coarsest slices.
        source = min(k for k in alike if groups % k == 0)
        coarse, pieces = self._product(source), groups // source
        size = coarse.shape[1] // pieces
        blocks = coarse.reshape(source, pieces, size, pieces, size)
        return blocks.diagonal(dim1=1, dim2=3).movedim(-1, 1).reshape(groups, size, size)

    def _product(self, groups: int) -> Tensor:
        """Return the Gram matrices from which others are derived; they are kept."""
        if groups not in self._grams:
            parts = self.matrices(groups)
            self._grams[groups] = parts @ parts.mT if self.wide(groups) else parts.mT @ parts
        return self._grams[groups]

    def values(self, groups: int) -> Tensor:
        """Return the singular values of the slices, k×r, the largest first."""
        if groups not in self._values:
            squares = torch.linalg.eigvalsh(self.gram(groups))
            self._values[groups] = squares.flip(1).clamp(min=0).sqrt()
        return self._values[groups]

    def bases(self, groups: int) -> Bases:
        """Return singular values and vectors of the slices."""
        return RECENT.get(self, ("bases", groups), lambda: self._bases(groups))

    def _bases(self, groups: int) -> Bases:
        squares, vectors = torch.linalg.eigh(self.gram(groups))
        values = squares.flip(1).clamp(min=0).sqrt()
        return Bases(values, vectors.mT.flip(1), self.wide(groups))

    @property
    def norm(self) -> float:
        """Return ‖W‖, the largest singular value of the whole folded weight."""
        return float(self.values(1)[0, 0])

    def rotated(self, groups: int) -> Tensor:
        """Return σ_l u_l of each slice, k×r×rows: the slice times its right singular vectors."""
        bases = self._bases(groups)
        if bases.wide:
            return bases.values.unsqueeze(2) * bases.vectors
        return bases.vectors @ self.matrices(groups).mT

    def products(self, groups: int) -> Tensor:
        """Return the products of all σ_l u_l with each other, (r·k)×(r·k), ordered by rank."""
        ranks = self.ranks(groups)
        if self.wide(1):
            vectors = self.rotated(groups).transpose(0, 1).reshape(ranks * groups, -1)
            return vectors @ vectors.T
        # From right singular vectors, without the long columns: W_i v · W_h u = vᵀ (WᵀW)_ih u.
        vectors = self._bases(groups).vectors
        left = vectors @ self.gram(1).reshape(groups, ranks, groups * ranks)
        left = left.reshape(groups * ranks, groups, ranks).transpose(0, 1)
        both = (left @ vectors.mT).reshape(groups, groups, ranks, ranks)
        return both.permute(2, 1, 3, 0).reshape(groups * ranks, groups * ranks)

    def factors(self, groups: int, rank: int) -> tuple[Tensor, Tensor]:
        """Return U√S and √S Vᵀ of each slice, k×rows×j and k×j×columns, truncated at rank j."""
        bases, parts = self.bases(groups), self.matrices(groups)
        values = bases.values[:, :rank]
        # The other side of each vector is the slice times it, over σ, which must not be tiny.
        root = torch.where(values > FLOOR * self.norm, values, 1.0).sqrt().unsqueeze(2)
        vectors = bases.vectors[:, :rank]
        if bases.wide:
            return (root * vectors).mT, vectors @ parts / root
        return (vectors @ parts.mT / root).mT, root * vectors
