"""Decompose a matrix once for all ranks, or once for each where a method is not nested."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lowrank_bench.problem import Problem, data_used

if TYPE_CHECKING:
    from lowrank_bench.linalg.decomposition import Decomposition
    from lowrank_bench.methods import MatrixMethod


def decompose(
    matrix: Tensor,
    method: "MatrixMethod",
    compression: float,
    row_facts: Mapping[str, Tensor],
    budget: str = "parameters",
) -> tuple["Decomposition", dict[str, Any]]:
    """Return a decomposition of a matrix, and the facts for its manifest.

    Parameters
    ----------
    matrix
        The table n×d, float64.
    compression
        Decides the rank where the method is not nested.
    row_facts
        Facts that the method needs, n numbers each, by name (`problem.Problem`).
    budget
        The unit of the compression: `parameters` or `bytes`.

    Raises
    ------
    LowRankError
        When the method refuses the matrix or the compression.
    """
    rows, columns = matrix.shape
    rank = None if method.nested else method.size_for(rows, columns, compression, budget)
    problem = Problem(matrix, rank, **row_facts)
    start = time.perf_counter()
    decomposition = method.decompose(problem)
    return decomposition, {
        "method": method.label(),
        "shape": list(matrix.shape),
        "data_used": data_used(method.needs),
        "seconds": time.perf_counter() - start,
        "device": matrix.device.type,
        "info": decomposition.info,
    }
