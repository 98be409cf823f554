"""Print CPU time and memory of the decompositions against plain ways to compute the same.

python benchmarks/factorize.py            # sizes of a BERT vocabulary; some minutes
python benchmarks/factorize.py --quick    # small sizes; seconds, but less precise
"""

from collections.abc import Iterator
from functools import partial

import each_method
import numpy as np
import projective
import torch
from measure import Row, cpu_seconds, interleaved, peak_copies, show
from plain import plain_ellipsoid
from torch import Tensor

from lowrank_bench.linalg.ellipsoid.lowner import lowner_ellipsoid
from lowrank_bench.methods import make_method
from lowrank_bench.problem import Problem

SHAPE = {False: (30522, 768), True: (3000, 128)}


def heavy_tailed(rows: int, columns: int) -> Tensor:
    """Return Gaussian rows with log-normal lengths and decaying column scales, n×d float32."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(rows, columns, generator=generator)
    lengths = (0.7 * torch.randn(rows, 1, generator=generator)).exp()
    return matrix * lengths * torch.linspace(3, 0.3, columns)


def heavy_tailed_double(rows: int, columns: int) -> Tensor:
    """Return the same numbers in float64, as methods receive them."""
    return heavy_tailed(rows, columns).double()


def decompose(name: str, matrix: Tensor) -> object:
    """Decompose by a method with its default parameters."""
    return make_method(name).decompose(Problem(matrix))


def decompose_lp(matrix: Tensor) -> object:
    """Decompose by `lp`; at module level, as the memory run requires."""
    return decompose("lp", matrix)


def decompose_svd(matrix: Tensor) -> object:
    """Decompose by `svd`; at module level, as the memory run requires."""
    return decompose("svd", matrix)


def thin_svd(matrix: Tensor) -> object:
    """Compute the reference, torch's thin SVD."""
    return torch.linalg.svd(matrix, full_matrices=False)


def whole_matrix(quick: bool) -> Iterator[Row]:
    """Compare `lp` (p = 1) and `svd`, conversion to float64 included, with torch's SVD."""
    shape = SHAPE[quick]
    single = heavy_tailed(*shape)
    works = (decompose_lp, decompose_svd)
    calls = [lambda work=work: work(single.double()) for work in works]
    *ours, reference = interleaved(*calls, lambda: thin_svd(single))
    make = partial(heavy_tailed_double, *shape)
    for name, seconds, work in zip(("lp p=1", "svd"), ours, works, strict=True):
        note = f"{seconds:.2f} s against {reference:.2f} s"
        title = f"{name} against torch's SVD, {shape[0]}x{shape[1]} float32"
        yield Row(title, seconds / reference, peak_copies(make, work), note)


def ellipsoid_method(quick: bool) -> Iterator[Row]:
    """Compare `lowner` with a version by forward differences and one cutting plane at a time."""
    rows, columns, limit = (400, 12, 20_000) if quick else (2000, 50, 6000)
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(rows, columns, generator=generator).double()
    matrix = matrix * torch.linspace(1, 10, columns)
    scaled = (matrix / float(torch.linalg.svdvals(matrix)[-1])).numpy()
    outcome: list[tuple[np.ndarray, int, bool]] = []
    theirs = cpu_seconds(lambda: outcome.append(plain_ellipsoid(scaled, limit)))
    (ours,) = interleaved(lambda: lowner_ellipsoid(matrix, 1.0))
    _, gradients, done = outcome[0]
    state = "done" if done else "stopped, so the ratio is an upper bound,"
    note = f"{ours:.3f} s against {theirs:.1f} s, {state} after {gradients} gradients"
    yield Row(f"lowner against plain, {rows}x{columns}", ours / theirs, None, note)


if __name__ == "__main__":
    show(__doc__.splitlines()[0], whole_matrix, ellipsoid_method, projective.rows, each_method.rows)
