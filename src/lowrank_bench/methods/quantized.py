"""Any method for matrices with its factors stored in few bits: what `quantize` makes of a method.

It is no method of its own: `quantized(Svd)` is `Svd` with one more parameter, `quantize`, and a
budget of bytes.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from types import new_class
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from lowrank_bench.errors import LowRankError
from lowrank_bench.methods.base import CodingMethod, MatrixMethod, Method
from lowrank_bench.methods.fields import UseWeighted
from lowrank_bench.problem import require_bytes

if TYPE_CHECKING:
    from torch import Tensor

    from lowrank_bench.linalg.coding.choice import Ladder
    from lowrank_bench.linalg.coding.precision import Precision
    from lowrank_bench.linalg.factors import Approximation
    from lowrank_bench.problem import Problem

CANDIDATES = (2, 3, 4, 6, 8, 16)  # bits that `auto` tries
AUTO: Literal["auto"] = "auto"


class Quantize(BaseModel):
    """The setting `quantize`: bits, and how columns are grouped and scaled.

    Parameters
    ----------
    bits
        1 to 8; 16 for float16; or `auto`: rank and bits together, the least measured error wins.
    group
        Columns that share a scale: `row`, 32, 64 or 128.
    scale
        `least_squares` or `absmax`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bits: Literal["auto", 1, 2, 3, 4, 5, 6, 7, 8, 16] = AUTO
    group: Literal["row", 32, 64, 128] = "row"
    scale: Literal["least_squares", "absmax"] = "least_squares"

    @model_validator(mode="after")
    def _is_rounded(self) -> Quantize:
        if self.bits == 16 and (self.group != "row" or self.scale != "least_squares"):
            raise ValueError("16 bits are float16, which has no scales; leave out group and scale")
        return self

    def precisions(self) -> list[Precision]:
        """Return the precisions to try."""
        from lowrank_bench.linalg.coding.precision import Precision

        bits = CANDIDATES if self.bits == AUTO else (int(self.bits),)
        group = None if self.group == "row" else int(self.group)
        return [Precision(b, group, self.scale) if b < 16 else Precision(b) for b in bits]

    def label(self) -> str:
        """Return the precision as figures show it: `int4 in groups of 32`, `auto`."""
        first = self.precisions()[0]
        return str(first).replace(f"int{first.bits}", AUTO) if self.bits == AUTO else str(first)


def _read(value: Any) -> Any:
    """Read a number of bits, or `auto`, as a mapping."""
    if isinstance(value, Quantize | dict):
        return value
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("it should be a number of bits, auto, or a mapping of bits, group, scale")
    if value not in (AUTO, *range(1, 9), 16):
        raise ValueError("it should be 1 to 8 bits, 16 for float16, or auto")
    return {"bits": value}


class Quantized(CodingMethod):
    """A method whose factors are rounded and packed, within a budget of bytes.

    Idea
        What a method keeps (factors, bases, kept rows, coefficients) is rounded to b bits, its
        integers are packed. For b the rank is the largest that fits; `auto` tries the bits of
        `CANDIDATES` and takes the code of least measured error, Σ w_i ‖a_i − b_i‖², with the
        method's own weights of the rows where it has some.
    Cost
        That of the method, once if it is nested, else once or twice for each number of bits; the
        rounding of each candidate, and its decoding to measure its error.
    Guarantee
        Bytes are at most the budget, the error is exact, and `auto` is never above a number of
        bits that it tries.
    """

    targets: ClassVar[tuple[str, ...]] = ("embedding",)
    plain: ClassVar[type[MatrixMethod]]  # the method without `quantize`

    quantize: Annotated[Quantize, BeforeValidator(_read)] = Field(
        description="bits of factors: 1 to 8, 16, auto, or a mapping of bits, group and scale"
    )

    def unquantized(self) -> MatrixMethod:
        """Return the method itself, whose factors are stored in this precision."""
        values = {name: getattr(self, name) for name in self.plain.model_fields}
        return self.plain(**values)

    def label(self) -> str:
        """Return the method's name with parameters and precision: `messi (k=5), int8`."""
        return f"{self.unquantized().label()}, {self.quantize.label()}"

    @classmethod
    def _fault(cls, error: ValidationError) -> str:
        """Return one line on the first parameter that is wrong, or key of `quantize`."""
        first = error.errors()[0]
        if first["loc"][:1] != ("quantize",) or len(first["loc"]) == 1:
            return super()._fault(error)
        key, known = first["loc"][1], ", ".join(Quantize.model_fields)
        if first["type"] == "extra_forbidden":
            return f"method {cls.name!r}: quantize has no key {key!r}; known: {known}"
        return (
            f"method {cls.name!r}: quantize.{key} = {first['input']!r} is not valid: {first['msg']}"
        )

    def size_for(
        self, rows: int, columns: int, compression: float, budget: str = "parameters"
    ) -> int:
        """Return the bytes that factors may take.

        Raises
        ------
        LowRankError
            For a budget of parameters.
        """
        require_bytes(f"{self.name} with quantize", budget, ", or leave quantize out")
        return super().size_for(rows, columns, compression, budget)

    def code(self, problem: Problem, n_bytes: int) -> tuple[Approximation, dict[str, Any]]:
        """Return the factors of least measured error in at most `n_bytes`, and the candidates.

        Raises
        ------
        LowRankError
            When no rank fits, or the method refuses.
        """
        from lowrank_bench.linalg.coding.choice import best_code

        method = self.unquantized()
        weights = row_weights(method, problem)
        ladder, infos = _ladder(method, problem)
        precisions = self.quantize.precisions()
        code, info = best_code(problem.matrix, ladder, precisions, n_bytes, weights)
        return code, {**info, "decomposition": infos[info["rank"]]}


def _ladder(method: MatrixMethod, problem: Problem) -> tuple[Ladder, dict[int, dict[str, Any]]]:
    """Return the approximations of a matrix, and what the method says of each that was made."""
    from lowrank_bench.linalg.coding.choice import Ladder

    once = method.decompose(replace(problem, rank=None)) if method.nested else None
    infos: dict[int, dict[str, Any]] = {}

    def make(rank: int) -> Approximation:
        """Return the approximation of a rank."""
        decomposition = once or method.decompose(replace(problem, rank=rank))
        infos[rank] = decomposition.info
        return decomposition.factors(rank)

    rows, columns = problem.matrix.shape
    most = min(rows, columns)
    return Ladder(make, most, method.nested, method.n_parameters(1, rows, columns)), infos


def row_weights(method: MatrixMethod, problem: Problem) -> Tensor | None:
    """Return the weights of the rows by which a method measures errors, n; None: all alike.

    A method outside this package says them by a function `row_weights(problem)`.
    """
    own = getattr(method, "row_weights", None)
    if own is not None:
        weights: Tensor = own(problem)
        return weights
    if isinstance(method, UseWeighted):
        from lowrank_bench.linalg.frequency.row_use import row_use

        return row_use(problem, method.weights)
    if "fisher" in method.needs:
        fisher = problem.fact("fisher")
        return fisher / fisher.max() if float(fisher.max()) > 0 else None
    return None


def quantized(cls: type[Method]) -> type[Quantized]:
    """Return a method's class with the parameter `quantize`.

    Raises
    ------
    LowRankError
        When it has no factors to round: it codes already, or compresses whole networks only.
    """
    if issubclass(cls, CodingMethod):
        raise LowRankError(
            f"{cls.name} stores few bits already; quantize is for methods with factors, such as svd"
        )
    if not issubclass(cls, MatrixMethod) or "embedding" not in cls.targets:
        raise LowRankError(
            f"{cls.name} compresses whole networks; quantize is for methods of embeddings, such as "
            "svd"
        )
    return _quantized(cls)


@cache
def _quantized(cls: type[MatrixMethod]) -> type[Quantized]:
    made: type[Quantized] = new_class(f"Quantized{cls.__name__}", (Quantized, cls))
    made.plain = cls
    made.__module__ = __name__  # which decides results, as that of `cls` does
    return made
