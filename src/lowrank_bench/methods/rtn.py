"""Rounding to a few bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from lowrank_bench.methods.base import CodingMethod

if TYPE_CHECKING:
    from lowrank_bench.linalg.factors import Approximation
    from lowrank_bench.problem import Problem


class Rtn(CodingMethod):
    """Round every entry to the nearest of 2^b levels, with a scale for each row or group.

    Idea
        What practitioners do: the control that every other method must beat at equal bytes.
    Cost
        About 13 passes over the table with scales of least squares, one with `absmax`.
    Guarantee
        With `absmax` an entry is off by at most half a step, max |a_i| / (2^b − 1) of its group;
        `least_squares` never has a larger squared error than that.

    Parameters
    ----------
    bits
        b, 1 to 8; by default as many as the budget allows.
    group
        Columns that share a scale, or `row`; by default the best of a row, 128, 64 and 32.
    scale
        `least_squares` or `absmax`.
    """

    name: ClassVar[str] = "rtn"
    title: ClassVar[str] = "Rounding to nearest"
    source: ClassVar[str] = "common practice; Gray and Neuhoff, Quantization, 1998"
    quiet: ClassVar[tuple[str, ...]] = ("bits", "group", "scale")

    bits: int | None = Field(default=None, ge=1, le=8, description="bits of an entry, 1 to 8")
    group: Literal["row", 32, 64, 128] | None = Field(
        default=None, description="columns that share a scale: row, 32, 64 or 128"
    )
    scale: Literal["least_squares", "absmax"] = Field(
        default="least_squares", description="least_squares or absmax"
    )

    def code(self, problem: Problem, n_bytes: int) -> tuple[Approximation, dict[str, Any]]:
        """Return the rounding of least squared error that fits.

        Raises
        ------
        LowRankError
            When one bit an entry takes more bytes, or the bits that were asked for.
        """
        from lowrank_bench.linalg.coding.fitting import best_rounding

        return best_rounding(problem.matrix, n_bytes, self.bits, self.group, self.scale)
