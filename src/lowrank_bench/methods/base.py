"""What a method is: validated parameters, and what it does to a matrix or to a network.

No module of this folder imports torch at its top level, so that the workflow can validate
parameters and list methods in milliseconds. Numerical code is imported inside the functions.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from bisect import bisect_right
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from lowrank_bench.errors import LowRankError
from lowrank_bench.problem import FACTS, FLOAT_BYTES, Problem, require_bytes
from lowrank_bench.store.digest import check_function

if TYPE_CHECKING:
    from lowrank_bench.linalg.decomposition import Decomposition
    from lowrank_bench.linalg.factors import Approximation
    from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem


class NetworkPart:
    """A function that a method runs on whole networks only; it is imported at its first call.

    A method that handles both single matrices and whole networks names what the latter need by a
    `NetworkPart` at the top of its file, where a type checker sees the function itself:

        if TYPE_CHECKING:
            from lowrank_bench.layerwise.approximators import compress_layerwise
        else:
            compress_layerwise = NetworkPart(
                "lowrank_bench.layerwise.approximators", "compress_layerwise"
            )

    A plain import, even inside a function, would make the module part of what decides the
    method's results on every target (`Method.sources`).

    Raises
    ------
    LowRankError
        When there is no such module, or it does not define the function.
    """

    def __init__(self, module: str, function: str) -> None:
        check_function(module, function)
        self.module, self.function = module, function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function and return its result."""
        return getattr(import_module(self.module), self.function)(*args, **kwargs)


class Method(BaseModel, ABC):
    """One way to compress; its fields are its parameters.

    A method is a file `methods/<name>.py` that defines one subclass with `name = "<name>"`, and a
    file `conf/method/<name>.yaml`. No other file mentions it.

    Raises
    ------
    LowRankError
        When a parameter is unknown or its value is out of range.

    Attributes
    ----------
    name, title, source
        Its name, its title in figures, and its publication.
    targets
        The targets that it can compress: `embedding`, `conv`, `linear`.
    nested
        Whether one decomposition serves every rank; otherwise each rank is decomposed separately.
    quiet
        Parameters that figures show only when they differ from the default.
    facts
        The data that every instance needs in addition to the weights: names of `problem.FACTS`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    targets: ClassVar[tuple[str, ...]]
    nested: ClassVar[bool]
    quiet: ClassVar[tuple[str, ...]] = ()
    facts: ClassVar[tuple[str, ...]] = ()

    def __init__(self, /, **params: Any) -> None:
        try:
            super().__init__(**params)
        except ValidationError as error:
            raise LowRankError(self._fault(error)) from None

    @classmethod
    def _fault(cls, error: ValidationError) -> str:
        """Return one line on the first parameter that is wrong."""
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"][:1])
        if first["type"] == "extra_forbidden":
            known = ", ".join(cls.model_fields) or "none"
            return f"method {cls.name!r} has no parameter {key!r}; known: {known}"
        fault = first["msg"].removeprefix("Value error, ")
        value = f"{key} = {first['input']!r} is not valid: " if key else ""
        return f"method {cls.name!r}: {value}{fault}"

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a class that asks for facts that do not exist."""
        unknown = sorted(set(cls.facts) - set(FACTS))
        if unknown:
            raise LowRankError(
                f"{cls.__name__}.facts names {unknown[0]!r}; known: {', '.join(FACTS)}"
            )

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the facts that are needed in addition to the weights: names of `problem.FACTS`.

        By default the `facts` of the class; a method whose needs depend on a parameter overrides
        this.
        """
        return self.facts

    def sources(self, target: str) -> tuple[str, ...]:
        """Return the modules that decide what the method computes on a target.

        With everything that they import they are part of the key of each result. They are the
        modules of the class and of the classes that it derives from; for whole networks also
        those of each `NetworkPart` in these modules.
        """
        classes = [cls for cls in type(self).__mro__ if issubclass(cls, Method)]
        modules = list(dict.fromkeys(cls.__module__ for cls in classes))
        if target != "embedding":
            scopes = [vars(sys.modules[name]).values() for name in modules]
            parts = [value for scope in scopes for value in scope if isinstance(value, NetworkPart)]
            modules += dict.fromkeys(part.module for part in parts)
        return tuple(modules)

    def label(self) -> str:
        """Return the name with the parameters, as figures show it: `lp (p=1)`."""
        fields = type(self).model_fields
        shown = ", ".join(
            f"{key}={_short(value)}"
            for key, value in self.model_dump(mode="json").items()
            if key not in self.quiet or value != fields[key].get_default(call_default_factory=True)
        )
        return f"{self.name} ({shown})" if shown else self.name


class MatrixMethod(Method):
    """A method that approximates a matrix, such as the table of an embedding, by factors.

    Attributes
    ----------
    row_order
        Whether the order of the rows can change the result, as it does with random starts and
        consecutive parts.
    label_bytes
        Bytes of each row's label, where the factors have some; a budget of bytes counts them.
    """

    targets: ClassVar[tuple[str, ...]] = ("embedding",)
    nested: ClassVar[bool] = True
    row_order: ClassVar[bool] = False
    label_bytes: ClassVar[int] = 0

    @classmethod
    def decomposition_class(cls) -> type[Decomposition]:
        """Return the class of the decomposition, which also restores it from its tensors.

        `Projection` for methods that choose one basis, `Single` for those that are not nested.
        Others override this.
        """
        from lowrank_bench.linalg.decomposition import Projection, Single

        return Projection if cls.nested else Single

    @abstractmethod
    def decompose(self, problem: Problem) -> Decomposition:
        """Decompose a finite n×d matrix: once for every rank, or for `problem.rank`.

        Parameters
        ----------
        problem
            The tensor n×d, float64, as `problem.matrix`, and the facts that the method needs.

        Returns
        -------
        Decomposition
            Its `factors(rank)` are the factors of a rank.
        """

    def n_parameters(self, rank: int, rows: int, columns: int) -> int:
        """Return the largest number of entries of rank-k factors of an n×d matrix.

        It must increase with the rank.
        """
        return rank * (rows + columns)

    def n_bytes(self, rank: int, rows: int, columns: int) -> int:
        """Return the largest number of bytes of rank-k factors in float32, integers included.

        It must increase with the rank.
        """
        return FLOAT_BYTES * self.n_parameters(rank, rows, columns) + self.label_bytes * rows

    def rank_for(
        self, rows: int, columns: int, compression: float, budget: str = "parameters"
    ) -> int:
        """Return the largest rank whose factors keep at most 1 − `compression` of the budget.

        Parameters
        ----------
        budget
            `parameters`, or `bytes` of a table in float32.

        Raises
        ------
        LowRankError
            When rank 1 already exceeds the budget.
        """
        size, whole = self.n_parameters, rows * columns
        if budget == "bytes":
            size, whole = self.n_bytes, FLOAT_BYTES * whole
        allowed = (1 - compression) * whole * (1 + 1e-12)  # so that rounding costs no rank
        ranks = range(1, min(rows, columns) + 1)
        rank = bisect_right(ranks, allowed, key=lambda k: size(k, rows, columns))
        if rank < 1:
            least = size(1, rows, columns) / whole
            raise LowRankError(
                f"compression {compression:g} leaves no rank for a {rows}x{columns} matrix; "
                f"the most that rank 1 of {self.name} allows is {1 - least:.4f}"
            )
        return rank

    def size_for(
        self, rows: int, columns: int, compression: float, budget: str = "parameters"
    ) -> int:
        """Return what `Problem.rank` is for a budget: the rank, or for a code its bytes.

        Raises
        ------
        LowRankError
            When the budget is too small, or the method does not save its unit.
        """
        return self.rank_for(rows, columns, compression, budget)


class CodingMethod(MatrixMethod):
    """A method that stores a table in integers of few bits, within a budget of bytes.

    It has no rank, and saves no parameters: `size_for` gives the bytes of the budget, and
    `Problem.rank` holds them.
    """

    nested: ClassVar[bool] = False

    @classmethod
    def decomposition_class(cls) -> type[Decomposition]:
        """Return the class of a code, which is stored as it is."""
        from lowrank_bench.linalg.coding.single import SingleCode

        return SingleCode

    @abstractmethod
    def code(self, problem: Problem, n_bytes: int) -> tuple[Approximation, dict[str, Any]]:
        """Return a code of `problem.matrix` of at most `n_bytes` bytes, and facts about it.

        Raises
        ------
        LowRankError
            When the method needs more bytes than these.
        """

    def decompose(self, problem: Problem) -> Decomposition:
        """Return the code of at most `problem.rank` bytes."""
        from lowrank_bench.linalg.coding.single import SingleCode

        n_bytes = problem.wanted_rank
        code, info = self.code(problem, n_bytes)
        return SingleCode(code, n_bytes, info)

    def size_for(
        self, rows: int, columns: int, compression: float, budget: str = "parameters"
    ) -> int:
        """Return the bytes that a code may take.

        Raises
        ------
        LowRankError
            For a budget of parameters.
        """
        require_bytes(self.name, budget)
        return int((1 - compression) * FLOAT_BYTES * rows * columns * (1 + 1e-12))


class NetworkMethod(Method):
    """A method that compresses all layers of a network under one budget."""

    targets: ClassVar[tuple[str, ...]] = ("conv", "linear")
    nested: ClassVar[bool] = False

    @abstractmethod
    def compress(self, problem: NetworkProblem, compression: float) -> CompressedNetwork:
        """Return a compressed copy of `problem.model` within the budget.

        Raises
        ------
        LowRankError
            When the budget is out of reach, a layer cannot be handled, or calibration data are
            needed and absent.
        """


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
