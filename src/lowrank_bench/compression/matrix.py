"""Approximate one matrix by a method."""

import operator
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lowrank_bench.compression.request import Numbers, as_matrix, as_vector, check_rank
from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.certificates.quick import Spectrum
from lowrank_bench.linalg.decomposition import Decomposition, Projection
from lowrank_bench.linalg.factors import Approximation, scaled
from lowrank_bench.linalg.units import largest_entry, unit_of
from lowrank_bench.methods import CodingMethod, MatrixMethod, as_method
from lowrank_bench.problem import Problem

# Entries beyond these are scaled first, by a power of two: their squares or fourth powers could
# leave float64 inside a method.
RANGE = (1e-70, 1e70)
BLOCK = 4096  # rows per block
SINGLE = (1e-30, 1e30)  # largest entries of tables that are decoded in float32


def low_rank(
    A: Numbers,
    rank: int,
    method: str | MatrixMethod = "lp",
    *,
    frequency: Numbers | None = None,
    counts: Numbers | None = None,
    fisher: Numbers | None = None,
    **params: Any,
) -> Approximation:
    """Approximate a matrix by two small ones.

    Parameters
    ----------
    A
        Floating-point tensor or array n×d, finite.
    rank
        k, in 1..min(n, d).
    method
        Name of a method, or an object such as `Lp(p=1.5)`. `lowrank methods` lists them and says
        what each of them means by a rank.
    frequency, counts, fisher
        n numbers: the facts about the rows that data-aware methods need (`problem.Problem`).
    **params
        Parameters of a method that is given by name, as `p=1.5` for `lp`.

    Returns
    -------
    Factors, ClusteredFactors or BlockFactors
        `.left` n×k, `.right` k×d and `.dense()`, for partitions with `.labels` as well: tensors
        with the precision and device of `A`, computed in float64.

    Raises
    ------
    LowRankError
        When A is not such a matrix, the rank is out of range, or the method refuses.

    Examples
    --------
    >>> import torch
    >>> factors = low_rank(torch.eye(4), rank=2, method="svd")
    >>> factors.left.shape, factors.right.shape
    (torch.Size([4, 2]), torch.Size([2, 4]))
    """
    chosen = as_method(method, params)
    if not isinstance(chosen, MatrixMethod):
        raise LowRankError(f"{chosen.name} compresses whole networks, not a matrix; use compress")
    if isinstance(chosen, CodingMethod):
        raise LowRankError(f"{chosen.name} has no rank; call compress(..., saved_bytes=...)")
    matrix = as_matrix(A)
    check_rank(rank, matrix)
    facts = {"frequency": frequency, "counts": counts, "fisher": fisher}
    return factorize(matrix, chosen, operator.index(rank), facts).factors


@dataclass(frozen=True, eq=False)
class Factorized:
    """Factors of a matrix, with what their method knows of it.

    Attributes
    ----------
    factors
        The factors, in the precision of the matrix.
    spectrum
        The matrix's singular values and vectors, where the method computed them.
    projected
        Whether the left factor is the matrix times the right one transposed, rounded once.
    info
        What the method says of its work, in types that JSON can hold.
    seconds
        Wall time.
    """

    factors: Approximation
    spectrum: Spectrum | None = None
    projected: bool = False
    info: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def factorize(
    matrix: Tensor, method: MatrixMethod, rank: int, facts: Mapping[str, Numbers | None]
) -> Factorized:
    """Return the factors of a checked matrix, computed in float64, in the matrix's precision.

    Raises
    ------
    LowRankError
        When the method refuses, or an entry of the factors overflows the precision.
    """
    start = time.perf_counter()
    if isinstance(method, CodingMethod):
        _check_decodable(matrix, method)
    unit = unit_of(matrix)
    unit = 1.0 if RANGE[0] < unit < RANGE[1] else unit
    decomposition = _decompose(matrix, method, rank, facts, unit)
    spectrum, projected = None, False
    if isinstance(decomposition, Projection) and unit == 1.0:
        # From the matrix itself, one block at a time: the copy in float64 is free to go.
        decomposition = decomposition.over(matrix)
        projected = decomposition.mean is None
        if decomposition.singular is not None:
            spectrum = Spectrum(decomposition.singular, decomposition.basis)
    factors = scaled(decomposition.factors(rank), unit)
    factors = factors.to(dtype=matrix.dtype, device=matrix.device)
    if not _fits(factors, matrix):
        raise LowRankError(
            f"the factors of {method.name} do not fit into {matrix.dtype}; scale the matrix down"
        )
    seconds = time.perf_counter() - start
    return Factorized(factors, spectrum, projected, decomposition.info, seconds)


def _decompose(
    matrix: Tensor,
    method: MatrixMethod,
    rank: int,
    facts: Mapping[str, Numbers | None],
    unit: float,
) -> Decomposition:
    device = "cpu" if matrix.device.type == "mps" else matrix.device  # which has no float64
    exact = matrix.to(device=device, dtype=torch.float64)
    exact = exact if unit == 1.0 else exact / unit
    vectors = {name: as_vector(name, value) for name, value in facts.items() if value is not None}
    try:
        return method.decompose(Problem(exact, None if method.nested else rank, **vectors))
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        reason = " ".join(str(error).split())
        raise LowRankError(
            f"{method.name} cannot decompose this matrix in float64 ({reason}); drop rows or "
            "columns that are negligible beside the others, or take the method svd"
        ) from None


def _check_decodable(matrix: Tensor, method: CodingMethod) -> None:
    """Refuse entries that float32 cannot hold, in which codes are decoded."""
    peak = largest_entry(matrix)
    if peak and not SINGLE[0] < peak < SINGLE[1]:
        raise LowRankError(
            f"{method.name} decodes rows in float32, and the largest entry is {peak:.3g}; scale "
            f"the table to entries between {SINGLE[0]:g} and {SINGLE[1]:g}"
        )


def _fits(factors: Approximation, matrix: Tensor) -> bool:
    """Return whether all factors are finite, and their product too where it could overflow."""
    if not all(part.isfinite().all() for part in factors.tensors().values()):
        return False
    if largest_entry(matrix) < torch.finfo(matrix.dtype).max / 1024:
        return True
    starts = range(0, len(matrix), BLOCK)
    return all(bool(factors.dense(at, at + BLOCK).isfinite().all()) for at in starts)
