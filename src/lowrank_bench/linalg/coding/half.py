"""Tables in half precision: the control that every library offers."""

from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor

from lowrank_bench.linalg.coding.coded import Coded, exponent_of, power
from lowrank_bench.linalg.units import largest_entry, power_of_two

Kind = Literal["fp16", "bf16"]
TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class HalfRows(Coded, mark="half"):
    """A matrix in float16 or bfloat16.

    Attributes
    ----------
    half
        Tensor n×d, float16 or bfloat16.
    shift
        Tensor of one int32, a power of two for all rows; None for 2⁰.
    """

    half: Tensor
    shift: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Return (n, d)."""
        return self.half.shape[0], self.half.shape[1]

    @property
    def exponent(self) -> int:
        """Return the power of two that multiplies every row."""
        return 0 if self.shift is None else int(self.shift)

    def with_exponent(self, exponent: int) -> Self:
        """Return a copy whose rows are multiplied by 2^`exponent` in all."""
        return replace(self, shift=shift_of(exponent, self.half))

    def decode(self, ids: Tensor) -> Tensor:
        """Return the rows `ids`, m×d float32."""
        rows = self.half.index_select(0, ids).float()
        return rows * power(self.exponent) if self.exponent else rows

    def tensors(self) -> dict[str, Tensor]:
        """Return `half` and, where the rows are scaled, `shift`."""
        return {"half": self.half} | ({} if self.shift is None else {"shift": self.shift})


def shift_of(exponent: int, like: Tensor) -> Tensor | None:
    """Return a power of two as it is stored, on the device of `like`: nothing for 2⁰."""
    return torch.tensor([exponent], dtype=torch.int32, device=like.device) if exponent else None


def to_half(matrix: Tensor, kind: Kind) -> HalfRows:
    """Return a finite matrix in half precision.

    Entries that float16 cannot hold are first divided by a power of two, which is exact.
    """
    peak = largest_entry(matrix)
    fits = peak <= torch.finfo(torch.float16).max / 2 and (peak == 0 or peak >= 2.0**-8)
    unit = 1.0 if fits else power_of_two(peak)
    return HalfRows((matrix / unit).to(TYPES[kind]), shift_of(exponent_of(unit), matrix))
