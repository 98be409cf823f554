"""What a compression method is: validated parameters and one decomposition that serves all ranks.

No module of this folder imports torch at its top, so that the workflow's parser can validate
parameters and list methods in milliseconds; the numerical work imports it where it starts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

from lowrank_bench.errors import LowRankError

if TYPE_CHECKING:
    from torch import Tensor

    from lowrank_bench.linalg.decomposition import Decomposition


class Method(BaseModel, ABC):
    """One way to approximate a matrix by factors; its fields are its parameters.

    A method is one file `methods/<name>.py` that defines one subclass with `name = "<name>"`,
    and one file `conf/method/<name>.yaml`. Nothing else needs to know of it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]

    @classmethod
    def decomposition_class(cls) -> type[Decomposition]:
        """Return the class of what `decompose` gives, which also restores it from disk.

        `Projection` for methods that only choose a basis; others override this.
        """
        from lowrank_bench.linalg.decomposition import Projection

        return Projection

    @abstractmethod
    def decompose(self, matrix: Tensor) -> Decomposition:
        """Decompose a finite n×d matrix once, for every rank.

        Parameters
        ----------
        matrix
            Tensor n×d, float64.

        Returns
        -------
        Decomposition
            `decomposition.factors(rank)` gives the factors of any rank up to min(n, d).
        """

    def rank_for(self, rows: int, columns: int, compression: float) -> int:
        """Return the largest rank whose factors keep at most 1 − `compression` of the entries.

        Raises
        ------
        LowRankError
            When no rank fits, so that the budget cannot be met.
        """
        rank = int((1 - compression) * rows * columns / (rows + columns) + 1e-9)
        if rank < 1:
            raise LowRankError(
                f"compression {compression:g} leaves no rank for a {rows}x{columns} matrix; "
                f"the most that rank 1 allows is {1 - (rows + columns) / (rows * columns):.4f}"
            )
        return rank

    def label(self) -> str:
        """Return the name shown in figures: the method with its parameters, as `lp (p=1)`."""
        shown = ", ".join(f"{key}={_short(value)}" for key, value in self.model_dump().items())
        return f"{self.name} ({shown})" if shown else self.name


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
