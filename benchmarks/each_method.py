"""Every method of the registry against one SVD of the same matrix, at one budget."""

from collections.abc import Iterator
from functools import partial

import torch
from measure import Row, cpu_seconds, interleaved, peak_copies
from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.methods import make_method, methods_for
from lowrank_bench.problem import Problem

SHAPE = {False: (30522, 384), True: (3000, 48)}
COMPRESSION = 0.6
# The defaults of `irls` take minutes at full size; the sweeps are the expensive part.
PARAMS = {"irls": {"sweeps": 2, "start": "ellipsoid"}, "messi": {"restarts": 1}}


def table(rows: int, columns: int) -> Tensor:
    """Return rows of unequal length with a slowly decaying spectrum, n×d float64."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(rows, columns, generator=generator)
    matrix *= torch.arange(1, columns + 1) ** -0.25
    lengths = 1 + 0.2 * torch.randn(rows, 1, generator=generator)
    return (matrix * lengths.clamp(min=0.2)).double()


def run(name: str, matrix: Tensor) -> object:
    """Decompose by a method at one budget, with facts like those from a real text."""
    rows, columns = matrix.shape
    method = make_method(name, **PARAMS.get(name, {}))
    rank = method.rank_for(rows, columns, COMPRESSION)
    use = 1 / (torch.arange(rows, dtype=torch.float64) + 30)
    facts = {"frequency": use / use.sum(), "counts": (1e4 * use).floor(), "fisher": use}
    given = {fact: facts[fact] for fact in method.needs}
    return method.decompose(Problem(matrix, None if method.nested else rank, **given)).factors(rank)


def rows(quick: bool) -> Iterator[Row]:
    """Yield one line per method."""
    size, columns = SHAPE[quick]
    matrix = table(size, columns)
    single = matrix.float()
    (reference,) = interleaved(lambda: torch.linalg.svd(single, full_matrices=False))
    for name in methods_for("embedding"):
        title = f"{name} against torch's SVD, {size}x{columns}, {COMPRESSION:.0%}"
        try:
            seconds = cpu_seconds(partial(run, name, matrix))
            memory = peak_copies(partial(table, size, columns), partial(run, name))
        except LowRankError as error:
            yield Row(title, None, None, f"refused: {error}")
            continue
        params = ", ".join(f"{key}={value}" for key, value in PARAMS.get(name, {}).items())
        note = f"{seconds:.2f} s against {reference:.2f} s" + (f" ({params})" if params else "")
        yield Row(title, seconds / reference, memory, note)
