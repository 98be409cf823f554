"""A precision for real numbers, and tensors stored in it: rounded and packed, or in float16."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank_bench.linalg.coding.coded import Coded
from lowrank_bench.linalg.coding.coordinates import round_coordinates
from lowrank_bench.linalg.coding.fitting import rounding_bytes
from lowrank_bench.linalg.coding.half import HalfRows, to_half
from lowrank_bench.linalg.coding.rounding import RoundedRows, Scale, round_to_nearest

HALF = 16  # bits that mean float16
SHIFT = 4  # bytes of the power of two that some tensors in float16 have
SHARED = 8  # least bits of what all rows share: it is small, and its errors meet in every row
VECTOR = 64  # numbers of a vector that share a scale, where rows are not cut into groups


@dataclass(frozen=True)
class Precision:
    """How real numbers are stored.

    Attributes
    ----------
    bits
        1 to 8, or 16 for float16.
    group
        Columns that share a scale; None for a whole row.
    scale
        How scales are chosen (`rounding.round_to_nearest`).
    """

    bits: int
    group: int | None = None
    scale: Scale = "least_squares"

    def __str__(self) -> str:
        """Return the name in results: `fp16`, `int8`, `int4 in groups of 32, absmax`."""
        if self.bits == HALF:
            return "fp16"
        cut = "" if self.group is None else f" in groups of {self.group}"
        return f"int{self.bits}{cut}" + (", absmax" if self.scale == "absmax" else "")

    def facts(self) -> dict[str, int | str]:
        """Return what reports say of it: `bits`, and of rounded numbers `group` and `scale`."""
        rounding = {"group": self.group or "row", "scale": self.scale}
        return {"bits": self.bits, **(rounding if self.bits != HALF else {})}

    @property
    def shared(self) -> "Precision":
        """The precision of what all rows share, such as a basis."""
        return Precision(max(self.bits, SHARED), self.group, self.scale)

    def most_bytes(self, rows: int, columns: int) -> int:
        """Return the bytes of a matrix n×d in this precision; float16 may take `SHIFT` less."""
        if self.bits == HALF:
            return 2 * rows * columns + SHIFT
        group = max(1, min(self.group or columns, columns))
        return rounding_bytes(rows, columns, self.bits, group)

    def store(self, matrix: Tensor) -> Coded:
        """Return a finite matrix n×d in this precision."""
        if self.bits == HALF:
            return to_half(matrix, "fp16")
        return round_to_nearest(matrix, self.bits, self.group, self.scale)

    def store_coordinates(self, left: Tensor, metric: Tensor) -> Coded:
        """Return coordinates n×k whose errors weigh `metric`, k or n×k, in this precision."""
        if self.bits == HALF or self.scale == "absmax":
            return self.store(left)
        return round_coordinates(left, metric, self.bits, self.group)

    def vector_shape(self, count: int) -> tuple[int, int]:
        """Return rows and columns of a vector of that many numbers as it is stored: cut into rows.

        A vector without numbers is stored as a row of zeros.
        """
        length = 1 if self.bits == HALF else min(self.group or VECTOR, max(1, count))
        return max(1, -(-count // length)), length

    def store_vector(self, values: Tensor) -> Coded:
        """Return a vector cut into rows, the last one filled up with zeros."""
        rows, length = self.vector_shape(len(values))
        padded = torch.nn.functional.pad(values, (0, rows * length - len(values)))
        return self.store(padded.view(rows, length))


def named(prefix: str, stored: Coded) -> dict[str, Tensor]:
    """Return the tensors of a stored matrix under names that begin with `prefix` and a dot."""
    return {f"{prefix}.{name}": value for name, value in stored.tensors().items()}


def stored_matrix(tensors: Mapping[str, Tensor], prefix: str) -> Coded | None:
    """Return the matrix that `named` gave these names, or None if there is none."""
    start = f"{prefix}."
    parts = {name[len(start) :]: value for name, value in tensors.items() if name.startswith(start)}
    if not parts:
        return None
    return HalfRows(**parts) if "half" in parts else RoundedRows(**parts)


def whole(stored: Coded) -> Tensor:
    """Return all of a stored matrix, n×d float32."""
    device = next(iter(stored.tensors().values())).device
    return stored.decode(torch.arange(stored.shape[0], device=device))


def entries(stored: Coded, places: Tensor) -> Tensor:
    """Return some numbers of a vector that was stored by `store_vector`, float32."""
    length = stored.shape[1]
    if length == 1:
        return stored.decode(places).squeeze(1)
    rows, inverse = torch.unique(places // length, return_inverse=True)
    return stored.decode(rows)[inverse, places % length]
