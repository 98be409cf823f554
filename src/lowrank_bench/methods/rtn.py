"""Rounding to a few bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from lowrank_bench.errors import LowRankError
from lowrank_bench.methods.base import CodingMethod, NetworkMethod, NetworkPart

if TYPE_CHECKING:
    from lowrank_bench.layerwise.whole_bytes import compress_rounded
    from lowrank_bench.linalg.factors import Approximation
    from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem
    from lowrank_bench.problem import Problem
else:
    compress_rounded = NetworkPart("lowrank_bench.layerwise.whole_bytes", "compress_rounded")


class Rtn(CodingMethod, NetworkMethod):
    """Round every entry to the nearest of 2^b levels, with a scale for each row or group.

    Idea
        What practitioners do: the control that every other method must beat at equal bytes. In a
        whole network all layers get the same bits and groups.
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
    table
        In whole networks: `rtn` rounds the embedding like the other layers; `transform_code` gives
        it a transform code of the bytes that the others leave.
    """

    name: ClassVar[str] = "rtn"
    title: ClassVar[str] = "Rounding to nearest"
    source: ClassVar[str] = "common practice; Gray and Neuhoff, Quantization, 1998"
    targets: ClassVar[tuple[str, ...]] = ("embedding", "linear", "conv")
    quiet: ClassVar[tuple[str, ...]] = ("bits", "group", "scale", "table")

    bits: int | None = Field(default=None, ge=1, le=8, description="bits of an entry, 1 to 8")
    group: Literal["row", 32, 64, 128] | None = Field(
        default=None, description="columns that share a scale: row, 32, 64 or 128"
    )
    scale: Literal["least_squares", "absmax"] = Field(
        default="least_squares", description="least_squares or absmax"
    )
    table: Literal["rtn", "transform_code"] = Field(
        default="rtn", description="the embedding in a whole network: rtn or transform_code"
    )

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the facts that the table's transform code is weighted by."""
        return ("frequency",) if self.table == "transform_code" else ()

    def code(self, problem: Problem, n_bytes: int) -> tuple[Approximation, dict[str, Any]]:
        """Return the rounding of least squared error that fits.

        Raises
        ------
        LowRankError
            When one bit an entry takes more bytes, or the bits that were asked for.
        """
        from lowrank_bench.linalg.coding.fitting import best_rounding

        if self.table != "rtn":
            raise LowRankError(
                f"table = {self.table} is for whole networks; use the method {self.table} for an "
                "embedding alone"
            )
        return best_rounding(problem.matrix, n_bytes, self.bits, self.group, self.scale)

    def compress(self, problem: NetworkProblem, compression: float) -> CompressedNetwork:
        """Return a copy of the network with rounded layers, within the budget of bytes.

        Raises
        ------
        LowRankError
            When the budget is not one of bytes, or out of reach.
        """
        group = 0 if self.group == "row" else self.group
        return compress_rounded(problem, compression, self.bits, group, self.scale, self.table)
