"""The decomposition of a method that codes: one code, kept as it is."""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.coding.kinds import CODES
from lowrank_bench.linalg.decomposition import Decomposition
from lowrank_bench.linalg.factors import Approximation, restore

BYTES = "n_bytes"


class SingleCode(Decomposition):
    """A code for one budget of bytes.

    Parameters
    ----------
    code
        The code, whose tensors are stored in the types that they have.
    n_bytes
        The budget that the code was computed for.
    info
        Facts about the computation.
    """

    kinds = CODES

    def __init__(
        self, code: Approximation, n_bytes: int, info: dict[str, Any] | None = None
    ) -> None:
        self._code, self.n_bytes, self.info = code, n_bytes, dict(info or {})

    def factors(self, rank: int) -> Approximation:
        """Return the code; `rank` must be the bytes that it was computed for."""
        if rank != self.n_bytes:
            raise LowRankError(f"this code is for {self.n_bytes} bytes, not {rank}")
        return self._code

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the code, and its budget."""
        return {**self._code.tensors(), BYTES: torch.tensor(self.n_bytes)}

    @classmethod
    def from_tensors(cls, matrix: Tensor, tensors: Mapping[str, Tensor]) -> Self:
        """Return the stored code, on the device of `matrix`."""
        parts = {name: value for name, value in tensors.items() if name != BYTES}
        return cls(restore(parts).to(device=matrix.device), int(tensors[BYTES]))
