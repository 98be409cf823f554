"""Check what a user asks for, and turn it into tensors, before any work starts."""

import math
import operator
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.units import largest_entry

Numbers = Tensor | NDArray[Any]
OnStep = Callable[[str], None]  # called with the name of what begins
PRECISIONS = ("float16", "bfloat16", "float32", "float64")


def check_request(model: nn.Module, share: float | None, name: str = "compression") -> None:
    """Raise a `LowRankError` unless the model is a module and the share lies between 0 and 1."""
    if not isinstance(share, Real) or not 0 < share < 1:
        raise LowRankError(f"{name} must lie between 0 and 1, not {share!r}")
    if not isinstance(model, nn.Module):
        raise LowRankError(f"expected a torch module, not {type(model).__name__}")


def checked_budget(
    model: nn.Module, compression: float | None, saved_bytes: float | None
) -> tuple[float, str]:
    """Return the share to save and its unit, `parameters` or `bytes`.

    Raises
    ------
    LowRankError
        Unless one of the two is given, between 0 and 1, and the model is a module.
    """
    if compression is not None and saved_bytes is not None:
        raise LowRankError("give either compression or saved_bytes, not both")
    if saved_bytes is not None:
        check_request(model, saved_bytes, "saved_bytes")
        return float(saved_bytes), "bytes"
    check_request(model, compression)
    assert compression is not None
    return float(compression), "parameters"


def check_rank(rank: int, matrix: Tensor) -> None:
    """Raise a `LowRankError` unless the rank is a whole number that the matrix can have."""
    limit = min(matrix.shape)
    shape = "x".join(str(size) for size in matrix.shape)
    try:
        whole = None if isinstance(rank, bool) else operator.index(rank)
    except (TypeError, ValueError, RuntimeError):
        whole = None
    if whole is None or not 1 <= whole <= limit:
        allowed = f"use one in 1..{limit}" if limit else "it has no entries"
        raise LowRankError(f"rank {rank!r} does not fit a {shape} matrix; {allowed}")


def as_matrix(value: Numbers) -> Tensor:
    """Return a tensor or array as a detached, dense, finite matrix n×d in its own precision.

    Raises
    ------
    LowRankError
        When it has another number of dimensions, other entries than floating-point numbers, is
        sparse, has no data, or holds NaN, infinity or masked entries.
    """
    if not isinstance(value, Tensor | np.ndarray):
        raise LowRankError(f"expected a tensor or an array, not {type(value).__name__}")
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise LowRankError("the matrix has masked entries; fill them first, with .filled(value)")
    if isinstance(value, Tensor) and (value.is_nested or value.is_meta):
        kind = "nested" if value.is_nested else "on the device meta, without data"
        raise LowRankError(f"the matrix is {kind}; give one with rows and columns of numbers")
    kind = getattr(value.dtype, "name", f"{value.dtype}").removeprefix("torch.")
    if kind not in PRECISIONS:
        raise LowRankError(f"the matrix has entries of type {kind}; convert it to float32 first")
    if value.ndim != 2:
        shape = "x".join(str(size) for size in value.shape) or "scalar"
        raise LowRankError(f"expected a matrix with rows and columns, not an array of {shape}")
    if isinstance(value, Tensor) and value.layout is not torch.strided:
        raise LowRankError("the matrix is sparse; convert it with .to_dense() first")
    matrix = _from_array(value) if isinstance(value, np.ndarray) else _plain(value)
    if not math.isfinite(largest_entry(matrix)):
        bad = ~torch.isfinite(matrix)
        row = int(bad.any(dim=1).nonzero()[0])
        count = int(bad.sum())
        entries = "entry is" if count == 1 else "entries are"
        raise LowRankError(f"{count} matrix {entries} NaN or infinite, the first in row {row}")
    return matrix


def _plain(value: Tensor) -> Tensor:
    """Return the numbers of a tensor as a plain one, without gradient or subclass."""
    return value.detach().as_subclass(Tensor).resolve_neg()


def _from_array(array: NDArray[Any]) -> Tensor:
    """Return an array as a tensor; torch takes neither foreign byte orders nor read-only memory."""
    if array.dtype.name == "bfloat16":  # a type of another package, unknown to torch.from_numpy
        return torch.from_numpy(np.array(array, dtype=np.float32)).to(torch.bfloat16)
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    # An axis of length one may keep a negative stride, which counts as contiguous in numpy alone.
    shared = native.flags.writeable and min(native.strides, default=0) >= 0
    return torch.from_numpy(native if shared else np.array(native, order="C", subok=False))


def as_vector(name: str, value: Any) -> Tensor:
    """Return a fact about the rows as a dense tensor.

    Raises
    ------
    LowRankError
        When it is not real numbers; `name` is what the message calls it.
    """
    try:
        vector = torch.as_tensor(_readable(value)).detach().to_dense()
        real = vector.is_floating_point() or not (vector.is_complex() or vector.is_quantized)
        if real and not vector.is_meta:
            return vector
    except (TypeError, ValueError, RuntimeError):
        pass
    raise LowRankError(f"{name} must be real numbers, not {type(value).__name__}")


def _readable(value: Any) -> Any:
    """Return a fact that torch can read: its own copy of an array, and whatever else as it is."""
    return np.array(value, subok=False) if isinstance(value, np.ndarray) else value


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
