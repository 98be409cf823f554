"""The table in half precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from lowrank_bench.errors import LowRankError
from lowrank_bench.methods.base import CodingMethod

if TYPE_CHECKING:
    from lowrank_bench.linalg.factors import Approximation
    from lowrank_bench.problem import Problem


class Half(CodingMethod):
    """Store every entry in 16 bits.

    Idea
        What every library offers; the control for all that save half of the bytes or less.
    Cost
        One pass over the table.
    Guarantee
        Each entry has a relative error of at most 2⁻¹¹ (fp16, unless it is below 2⁻²² of the
        largest) or 2⁻⁸ (bf16).

    Parameters
    ----------
    kind
        `fp16` or `bf16`.
    """

    name: ClassVar[str] = "half"
    title: ClassVar[str] = "Half precision"
    source: ClassVar[str] = "IEEE 754-2019, section 3.6"

    kind: Literal["fp16", "bf16"] = Field(default="fp16", description="fp16 or bf16")

    def code(self, problem: Problem, n_bytes: int) -> tuple[Approximation, dict[str, Any]]:
        """Return the table in half precision.

        Raises
        ------
        LowRankError
            When the budget saves more than half.
        """
        from lowrank_bench.linalg.coding.half import to_half

        code = to_half(problem.matrix, self.kind)
        if code.n_bytes > n_bytes:
            raise LowRankError(
                f"half precision takes {code.n_bytes:,} bytes, and the budget has {n_bytes:,}; "
                "save half of the bytes at most"
            )
        return code, {}
