"""Initial subspaces for iterative methods: from the SVD and from the ℓp ellipsoid."""

from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.decomposition import complete, orient
from lowrank_bench.linalg.ellipsoid.lewis import lewis_weights
from lowrank_bench.linalg.gram import right_singular


def first_bases(matrix: Tensor, rank: int, p: float, start: str) -> dict[str, Tensor]:
    """Return orthonormal bases d×k of initial row subspaces, by name.

    Parameters
    ----------
    matrix
        Tensor A, n×d, float64, finite.
    rank
        k, in 1..min(n, d).
    p
        Exponent of the ellipsoid, 1 ≤ p ≤ 16.
    start
        "svd", "ellipsoid", or "best" for both. With "best", the ellipsoid is left out if its
        weights do not converge.

    Raises
    ------
    LowRankError
        If the rank is out of range, or `start` is "ellipsoid" and the weights do not converge.
    """
    limit = min(matrix.shape)
    if not 1 <= rank <= limit:
        shape = "x".join(str(size) for size in matrix.shape)
        raise LowRankError(f"rank {rank} of a {shape} matrix is not in 1..{limit}")
    bases = {}
    if start != "ellipsoid":
        bases["svd"] = right_singular(matrix)[1]
    if start != "svd":
        try:
            # The leading axes of the ellipsoid: the projection that `lp` uses.
            bases["ellipsoid"] = right_singular(lewis_weights(matrix, p).root)[1]
        except LowRankError:
            if start == "ellipsoid":
                raise
    # A rank-deficient form has fewer axes than the rank; any orthonormal ones will do.
    return {name: orient(complete(axes, limit)[:, :rank]) for name, axes in bases.items()}
