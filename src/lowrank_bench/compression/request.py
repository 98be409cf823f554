"""Check what a user asks for, and turn it into tensors, before any work starts."""

import operator
from collections.abc import Iterable
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lowrank_bench.errors import LowRankError

Numbers = Tensor | NDArray[Any]
PRECISIONS = ("float16", "bfloat16", "float32", "float64")


def check_request(model: nn.Module, compression: float) -> None:
    """Raise a `LowRankError` unless the model is a module and the share lies between 0 and 1."""
    if not isinstance(compression, Real) or not 0 < compression < 1:
        raise LowRankError(f"compression must lie between 0 and 1, not {compression!r}")
    if not isinstance(model, nn.Module):
        raise LowRankError(f"expected a torch module, not {type(model).__name__}")


def check_rank(rank: int, matrix: Tensor) -> None:
    """Raise a `LowRankError` unless the rank is a whole number that the matrix can have."""
    limit = min(matrix.shape)
    shape = "x".join(str(size) for size in matrix.shape)
    whole = hasattr(rank, "__index__") and not isinstance(rank, bool)
    if not whole or not 1 <= operator.index(rank) <= limit:
        allowed = f"use one in 1..{limit}" if limit else "it has no entries"
        raise LowRankError(f"rank {rank!r} does not fit a {shape} matrix; {allowed}")


def as_matrix(value: Numbers) -> Tensor:
    """Return a tensor or array as a detached, dense, finite matrix n×d in its own precision.

    Raises
    ------
    LowRankError
        When it has another number of dimensions, other entries than floating-point numbers, is
        sparse, or holds NaN or infinity.
    """
    if not isinstance(value, Tensor | np.ndarray):
        raise LowRankError(f"expected a tensor or an array, not {type(value).__name__}")
    kind = getattr(value.dtype, "name", f"{value.dtype}").removeprefix("torch.")
    if kind not in PRECISIONS:
        raise LowRankError(f"the matrix has entries of type {kind}; convert it to float32 first")
    if value.ndim != 2:
        shape = "x".join(str(size) for size in value.shape) or "scalar"
        raise LowRankError(f"expected a matrix with rows and columns, not an array of {shape}")
    matrix = _from_array(value) if isinstance(value, np.ndarray) else value.detach()
    if matrix.is_sparse or matrix.layout is not torch.strided:
        raise LowRankError("the matrix is sparse; convert it with .to_dense() first")
    bad = ~torch.isfinite(matrix)
    if bad.any():
        row = int(bad.any(dim=1).nonzero()[0])
        count = int(bad.sum())
        entries = "entry is" if count == 1 else "entries are"
        raise LowRankError(f"{count} matrix {entries} NaN or infinite, the first in row {row}")
    return matrix


def _from_array(array: NDArray[Any]) -> Tensor:
    """Return an array as a tensor; torch takes neither foreign byte orders nor read-only memory."""
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return torch.from_numpy(native if native.flags.writeable else native.copy())


def as_vector(name: str, value: Any) -> Tensor:
    """Return a fact about the rows as a dense tensor.

    Raises
    ------
    LowRankError
        When it is not numbers; `name` is what the message calls it.
    """
    try:
        return torch.as_tensor(value).to_dense()
    except (TypeError, ValueError, RuntimeError):
        raise LowRankError(f"{name} must be numbers, not {type(value).__name__}") from None


def as_texts(texts: Iterable[str]) -> list[str]:
    """Return training texts as a list.

    Raises
    ------
    LowRankError
        When they are a single string, empty, or not strings.
    """
    rows = [] if isinstance(texts, str | bytes) else list(texts)
    if not rows or not all(isinstance(text, str) for text in rows):
        raise LowRankError("texts must be a list of strings, and not empty")
    return rows
