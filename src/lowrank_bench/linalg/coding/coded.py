"""What all coded tables share: bytes that are counted exactly, and rows decoded on demand."""

import math
from abc import abstractmethod
from typing import ClassVar, Self

import torch
from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.factors import Approximation, restore
from lowrank_bench.linalg.units import largest_entry, power_of_two


class Coded(Approximation):
    """An n×d matrix stored in bytes; `rows` decodes those that are asked for, in float32.

    The tensors keep their types: another precision of the network changes nothing here. The
    integer tensor that marks the kind holds all sizes; its last entry is a power of two by which
    every decoded row is multiplied, so that half-precision scales never leave their range.
    """

    # What is computed once from the integers alone: names of cached properties.
    derived: ClassVar[tuple[str, ...]] = ()

    def derive(self) -> Self:
        """Compute all that is `derived`, for others to adopt; return self."""
        for name in self.derived:
            getattr(self, name)
        return self

    def adopt(self, other: "Coded") -> Self:
        """Take over what `other`, a code with the same integers, has derived; return self."""
        known = vars(other)
        vars(self).update({name: known[name] for name in self.derived if name in known})
        return self

    @property
    def n_bytes(self) -> int:
        """Return every byte that is stored: the bytes of all `tensors()`."""
        return sum(value.numel() * value.element_size() for value in self.tensors().values())

    @property
    def index_bits(self) -> int:
        """Return the bits of all integers: codes, tables, labels and sizes."""
        stored = self.tensors().values()
        whole = (value for value in stored if not value.is_floating_point())
        return sum(8 * value.numel() * value.element_size() for value in whole)

    @property
    def rank(self) -> int:
        """Return the largest possible rank."""
        return min(self.shape)

    @abstractmethod
    def decode(self, ids: Tensor) -> Tensor:
        """Return the rows `ids` (m int64, in range), m×d float32, each decoded on its own."""

    @property
    def exponent(self) -> int:
        """Return the power of two that multiplies every row."""
        return int(self.tensors()[self.mark][-1])

    def with_exponent(self, exponent: int) -> Self:
        """Return a copy whose rows are multiplied by 2^`exponent` in all."""
        tensors = self.tensors()
        sizes = tensors[self.mark].clone()
        sizes[-1] = exponent
        return type(self).rebuild({**tensors, self.mark: sizes})

    def rows(self, ids: Tensor) -> Tensor:
        """Return the rows `ids` (m int64), m×d float32; a repeated id is decoded once.

        Raises
        ------
        LowRankError
            If an id is negative or not below n.
        """
        distinct, places = torch.unique(ids, return_inverse=True)
        ends = distinct[:: max(1, len(distinct) - 1)].tolist()  # the least and the largest
        if ends and not 0 <= ends[0] <= ends[-1] < self.shape[0]:
            raise LowRankError(f"rows are numbered 0 to {self.shape[0] - 1}; an id is outside")
        decoded = self.decode(distinct).index_select(0, places.flatten())
        return decoded.view(*ids.shape, self.shape[1])

    def dense(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Return rows `start` to `stop`, by default all of them, in float32."""
        device = next(iter(self.tensors().values())).device
        whole = torch.arange(self.shape[0], device=device)[start:stop]
        parts = [self.decode(part) for part in whole.split(4096)]
        return torch.cat(parts) if parts else torch.zeros(0, self.shape[1], device=device)

    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Self:
        """Return a copy on another device; `dtype` is ignored, stored types are the format."""
        moved = {name: value.to(device=device) for name, value in self.tensors().items()}
        copy = restore(moved)
        assert isinstance(copy, type(self))
        return copy

    def scaled(self, unit: float) -> Self:
        """Return the code of the matrix times `unit`, a power of two."""
        if math.frexp(unit)[0] != 0.5:
            raise LowRankError(f"a coded table can be scaled by a power of two, not by {unit}")
        return self.with_exponent(self.exponent + exponent_of(unit))


def exponent_of(unit: float) -> int:
    """Return the exponent of a power of two, as codes store it."""
    return math.frexp(unit)[1] - 1


def finite_unit(matrix: Tensor) -> float:
    """Return `units.unit_of` a matrix.

    Raises
    ------
    LowRankError
        If an entry is not finite.
    """
    peak = largest_entry(matrix)
    if not peak < math.inf:
        raise LowRankError("the matrix has entries that are not finite; remove them first")
    return power_of_two(peak or 0.5)


def power(exponent: int) -> float:
    """Return 2^`exponent`, or the nearest number that float64 holds."""
    return math.ldexp(1.0, max(-1074, min(1023, exponent)))


def relative_error(matrix: Tensor, coded: Approximation, weights: Tensor | None = None) -> float:
    """Return √(Σ w_i ‖a_i − b_i‖² / Σ w_i ‖a_i‖²), from one block of rows at a time."""
    error = total = 0.0
    for start in range(0, len(matrix), 4096):
        part = matrix[start : start + 4096].double()
        weight = 1.0 if weights is None else weights[start : start + 4096].double()
        left = part - coded.dense(start, start + 4096).double()
        error += float((weight * left.square().sum(1)).sum())
        total += float((weight * part.square().sum(1)).sum())
    return math.sqrt(error / total) if total > 0 else 0.0
