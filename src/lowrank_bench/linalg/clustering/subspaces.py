"""Subspaces of clusters of rows: how to fit them, and which one is nearest to a row."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank_bench.linalg.decomposition import complete
from lowrank_bench.linalg.gram import CHUNK, gram, numerical_rank, right_singular

# A float32 share of |x|² has an error of about 1e-6. Rows whose two best shares differ by less
# than this are compared again in float64.
UNCLEAR = 2e-5
# Distances relative to |x|:
ROUNDING = 1e-14  # below this one, a float64 distance is rounding error
SAME = 1e-9  # below this one, a row adds no direction to a subspace


@dataclass(frozen=True)
class Subspaces:
    """k subspaces of dimension j in d dimensions.

    Attributes
    ----------
    bases
        Tensor k×d×j, float64, orthonormal columns, the most important first.
    normals
        Tensor k×d×(d−j), float64: bases of the orthogonal complements, if those are smaller.
    """

    bases: Tensor
    normals: Tensor | None

    def squared_distances(self, rows: Tensor, cluster: int) -> Tensor:
        """Return the squared distances of `rows` n×d from one subspace, without cancellation."""
        # The length of the residual itself: ‖x‖² − ‖Vᵀx‖² would lose digits near the subspace.
        if self.normals is not None:
            return (rows @ self.normals[cluster]).square_().sum(dim=1)
        basis = self.bases[cluster]
        return torch.addmm(rows, rows @ basis, basis.T, alpha=-1).square_().sum(dim=1)


class Rows:
    """The rows of a matrix, with unit directions in float32 for fast comparisons.

    Parameters
    ----------
    matrix
        Tensor A, n×d, float64; squares of its entries must not overflow.
    """

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.squares = matrix.new_empty(len(matrix))
        self.directions = matrix.new_empty(matrix.shape, dtype=torch.float32)
        for start in range(0, len(matrix), CHUNK):
            part = slice(start, start + CHUNK)
            length = torch.linalg.vector_norm(matrix[part], dim=1)
            self.squares[part] = length.square()
            inverse = torch.where(length > 0, 1 / length, 0.0)
            self.directions[part] = matrix[part] * inverse[:, None]

    def nearest(self, subspaces: Subspaces, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the nearest subspace of each row, and its approximate squared distance.

        A row leaves its cluster in `labels` only if that is a gain. float32 decides clear cases
        and float64 the others; ties keep the row in its cluster.
        """
        shares = torch.cat(list(self._shares(subspaces)))
        least, nearest = shares.min(dim=1)
        unclear = ((shares < least[:, None] + UNCLEAR).sum(dim=1) > 1).nonzero()[:, 0]
        for part in torch.split(unclear, CHUNK):
            nearest[part] = self._nearest_exactly(subspaces, labels[part], part)
        return nearest, least.double().clamp_(min=0) * self.squares

    def _shares(self, subspaces: Subspaces) -> Iterator[Tensor]:
        """Yield (distance / length)² of a block of rows from each subspace, float32."""
        # One product with all bases side by side; the complements if they have fewer columns.
        narrow = subspaces.bases if subspaces.normals is None else subspaces.normals
        count, dimension, width = narrow.shape
        joint = narrow.float().transpose(0, 1).reshape(dimension, count * width).contiguous()
        for block in torch.split(self.directions, CHUNK):
            # ‖Vᵀu‖² of a unit row u is its share inside, ‖Nᵀu‖² its share outside the subspace.
            shares = (block @ joint).square_().view(len(block), count, width).sum(dim=2)
            yield 1 - shares if subspaces.normals is None else shares

    def _nearest_exactly(self, subspaces: Subspaces, labels: Tensor, index: Tensor) -> Tensor:
        rows = self.matrix[index]
        clusters = range(len(subspaces.bases))
        squared = torch.stack([subspaces.squared_distances(rows, c) for c in clusters], dim=1)
        least, nearest = squared.min(dim=1)
        # A row stays in its cluster unless the gain exceeds rounding error.
        current = squared.gather(1, labels[:, None])[:, 0]
        tie = current - least <= 1e-12 * current + ROUNDING**2 * self.squares[index]
        return torch.where(tie, labels, nearest)

    def squared_distances(self, subspaces: Subspaces, labels: Tensor) -> Tensor:
        """Return the squared distance of each row from the subspace of its cluster."""
        squared = torch.empty_like(self.squares)
        for cluster in range(len(subspaces.bases)):
            for part in torch.split((labels == cluster).nonzero()[:, 0], CHUNK):
                squared[part] = subspaces.squared_distances(self.matrix[part], cluster)
        return squared


class Fitter:
    """Fits a subspace to the rows of each cluster, and reuses Gram matrices of the last fit.

    Parameters
    ----------
    rows
        The rows.
    clusters, dimension
        k and j.
    """

    def __init__(self, rows: Rows, clusters: int, dimension: int) -> None:
        self.rows, self.clusters, self.dimension = rows, clusters, dimension
        self._labels: Tensor | None = None
        self._grams: dict[int, Tensor] = {}

    def forget(self) -> None:
        """Drop the Gram matrices of the last fit, because `scale` has changed."""
        self._grams.clear()

    def fit(self, labels: Tensor, scale: Tensor | None, squared: Tensor) -> tuple[Subspaces, float]:
        """Return the best subspace of each cluster, and the cost Σ scale²·distance².

        Parameters
        ----------
        labels
            Tensor n: the cluster of each row.
        scale
            Tensor n, float64: square roots of the weights, or None for ones.
        squared
            Tensor n: squared distances before the fit. A cluster whose rows span fewer than j
            dimensions takes the directions of the rows with the largest ones.
        """
        width = self.rows.matrix.shape[1]
        bases = self.rows.matrix.new_empty(self.clusters, width, self.dimension)
        both = 2 * self.dimension > width
        normals = bases.new_empty(self.clusters, width, width - self.dimension) if both else None
        total = 0.0
        for cluster in range(self.clusters):
            squares, vectors = self._axes(labels, cluster, scale)
            # The j leading axes are the best subspace; the other eigenvalues are its cost.
            total += float(squares[self.dimension :].sum())
            if vectors.shape[1] < self.dimension:
                vectors, squared = self._take_in(vectors, squared)
            vectors = complete(vectors, width if both else self.dimension)
            bases[cluster] = vectors[:, : self.dimension]
            if normals is not None:
                normals[cluster] = vectors[:, self.dimension :]
        self._labels = labels
        return Subspaces(bases, normals), total

    def _axes(self, labels: Tensor, cluster: int, scale: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the squared singular values of a cluster, and its axes above rounding error."""
        index = (labels == cluster).nonzero()[:, 0]
        width = self.rows.matrix.shape[1]
        # Few rows: their SVD is cheaper than a d×d eigenvalue problem, and more accurate.
        if len(index) < max(width, 2 * self.dimension):
            self._grams.pop(cluster, None)
            part = self.rows.matrix[index]
            values, vectors = right_singular(part if scale is None else part * scale[index, None])
            rank = numerical_rank(values, *part.shape)
            return values.square(), vectors[:, :rank]
        squares, vectors = torch.linalg.eigh(self._gram(labels, cluster, index, scale))
        squares, vectors = squares.flip(0).clamp(min=0), vectors.flip(1)
        # Axes below the rounding error of the Gram matrix are noise.
        floor = squares[0] * width * torch.finfo(squares.dtype).eps
        rank = int((squares > floor).sum())
        return squares, vectors if rank >= self.dimension else vectors[:, :rank]

    def _gram(self, labels: Tensor, cluster: int, index: Tensor, scale: Tensor | None) -> Tensor:
        """Return the Gram matrix of a cluster, updated from the last fit if that is cheaper."""
        total = self._updated(labels, cluster, index, scale)
        if total is None:
            total = self._product(index, scale)
        # Keep it only if the Gram matrices together are smaller than the matrix.
        if self.clusters * total.shape[0] <= len(self.rows.matrix):
            self._grams[cluster] = total
        return total

    def _updated(
        self, labels: Tensor, cluster: int, index: Tensor, scale: Tensor | None
    ) -> Tensor | None:
        """Return the last Gram matrix updated by the rows that moved, or None if not useful."""
        before = self._grams.get(cluster)
        if before is None:
            return None
        was, now = self._labels == cluster, labels == cluster
        came, left = (now & ~was).nonzero()[:, 0], (was & ~now).nonzero()[:, 0]
        if len(came) + len(left) >= len(index):
            return None
        total = before + self._product(came, scale) - self._product(left, scale)
        # If most of the sum was subtracted, cancellation has made the update inaccurate.
        return total if 100 * total.trace() > before.trace() else None

    def _product(self, index: Tensor, scale: Tensor | None) -> Tensor:
        width = self.rows.matrix.shape[1]
        total = self.rows.matrix.new_zeros(width, width)
        for part in torch.split(index, 4 * CHUNK):
            total += gram(self.rows.matrix[part], None if scale is None else scale[part])
        return total

    def _take_in(self, vectors: Tensor, squared: Tensor) -> tuple[Tensor, Tensor]:
        """Extend `vectors` by directions of the worst-fitted rows; return updated distances.

        The rows of the cluster stay in the span, so the cost cannot increase.
        """
        everywhere = torch.zeros_like(squared, dtype=torch.int64)
        while True:
            reach = Subspaces(vectors[None], None)
            squared = torch.minimum(squared, self.rows.squared_distances(reach, everywhere))
            rank = vectors.shape[1]
            room = min(self.dimension - rank, len(squared))
            # The farthest rows, without those that already lie in one of the subspaces.
            worst = squared.argsort(descending=True, stable=True)[:room]
            worst = worst[squared[worst] > SAME**2 * self.rows.squares[worst]]
            rows = self.rows.matrix[worst].T
            joint = torch.cat([vectors, rows / torch.linalg.vector_norm(rows, dim=0)], dim=1)
            # A column that depends on earlier ones would add an arbitrary direction.
            fresh = torch.linalg.qr(joint).R.diagonal().abs() > SAME
            fresh[:rank] = True
            if fresh.sum() == rank:
                return vectors, squared
            vectors = torch.cat([vectors, torch.linalg.qr(joint[:, fresh]).Q[:, rank:]], dim=1)
