"""First subspaces for the methods that improve one: of the SVD and of the ℓp ellipsoid."""

from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.decomposition import complete, orient
from lowrank_bench.linalg.ellipsoid.lewis import lewis_weights
from lowrank_bench.linalg.gram import right_singular


def first_bases(matrix: Tensor, rank: int, p: float, start: str) -> dict[str, Tensor]:
    """Return orthonormal bases d×k of the row subspaces to start from, by name.

    Parameters
    ----------
    matrix
        Tensor A, n×d, float64, finite.
    rank
        k, in 1..min(n, d).
    p
        Exponent of the ellipsoid, 1 ≤ p ≤ 16.
    start
        "svd", "ellipsoid" or, for both, "best"; then without the ellipsoid where its weights do
        not converge.

    Raises
    ------
    LowRankError
        When the rank is out of range, or `start` is "ellipsoid" and the weights do not converge.
    """
    limit = min(matrix.shape)
    if not 1 <= rank <= limit:
        shape = "x".join(str(size) for size in matrix.shape)
        raise LowRankError(f"rank {rank} of a {shape} matrix is not in 1..{limit}")
    found = {}
    if start != "ellipsoid":
        found["svd"] = right_singular(matrix)[1]
    if start != "svd":
        try:
            found["ellipsoid"] = right_singular(lewis_weights(matrix, p).root)[1]
        except LowRankError:
            if start == "ellipsoid":
                raise
    return {name: orient(complete(axes, limit)[:, :rank]) for name, axes in found.items()}
