"""Parameters that several methods share."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PlainSerializer
from pydantic_core import PydanticCustomError

from lowrank_bench.methods.base import CodingMethod, MatrixMethod
from lowrank_bench.problem import USE

LARGEST = 16.0


def _in_range(p: float) -> float:
    if not (1 <= p <= LARGEST or p == math.inf):
        message = f"Input should be from 1 to {LARGEST:g}, or inf"
        raise PydanticCustomError("exponent", message)
    return p


def _plain(p: float) -> float | str:
    return "inf" if p == math.inf else p  # JSON has no infinity


# The exponent p of a norm: from 1 to 16, or inf.
Exponent = Annotated[
    float, AfterValidator(_in_range), PlainSerializer(_plain, when_used="json-unless-none")
]


class UseWeighted(MatrixMethod):
    """A method that weights each row by how often it is used.

    Parameters
    ----------
    weights
        `vocabulary`: estimated from the order of the vocabulary and the table, without data;
        `counts`: counted in the training text and smoothed by that estimate; `uniform`: all rows
        have the same weight. Methods that cannot do without weights redefine the field without
        `uniform`.
    """

    weights: Literal["vocabulary", "counts", "uniform"] = Field(
        default="vocabulary", description="where the weights of the rows come from"
    )

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the facts that the weights are computed from."""
        return USE[self.weights]


class UseCoded(CodingMethod, UseWeighted):
    """A code whose errors weigh each row by a power of its use.

    Parameters
    ----------
    alpha
        Exponent of the use: 0 treats all rows alike, 1 minimizes the expected squared error.
    """

    alpha: float = Field(default=0.45, ge=0, le=1, description="exponent of the use, 0 to 1")
