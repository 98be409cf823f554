"""The input and the output of methods that compress whole networks."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.network.layers import Layer, find_layers
from lowrank_bench.network.sizes import Sizes, sizes_of

Inputs = Mapping[str, Tensor]
Batches = Callable[[], Iterable[tuple[Inputs, Tensor | None]]]
Made = TypeVar("Made")
BUDGETS = ("parameters", "macs", "latency", "bytes")
RESTS = ("as_is", "fp16")


class SecondsModel(Protocol):
    """How long layers take, for a budget of latency; `latency.seconds_for` gives one.

    Attributes
    ----------
    max_groups
        Most groups of a cut, unless more are asked for.
    """

    @property
    def max_groups(self) -> int:
        """Return the most groups of a cut, unless more are asked for."""
        ...

    def dense_seconds(self, problem: "NetworkProblem") -> Mapping[str, float]:
        """Return the seconds of each targeted layer of the dense network."""
        ...

    def rank_seconds(
        self, problem: "NetworkProblem", layer: Layer, scheme: int = 0, groups: int = 1
    ) -> NDArray[np.float64]:
        """Return the seconds of a factorized layer at ranks 1, 2, …, float64 r.

        Parameters
        ----------
        scheme, groups
            How the layer is cut (`layers.convolution`).
        """
        ...

    def sliced_seconds(
        self, problem: "NetworkProblem", layer: Layer, inputs: int, outputs: int
    ) -> float:
        """Return the seconds of a layer with fewer input and output channels."""
        ...

    def rounded_up(self, size: int, full: int) -> int:
        """Return the largest number of channels, `full` at most, that is as fast as `size`."""
        ...

    def within(
        self,
        problem: "NetworkProblem",
        compression: float,
        make: Callable[[float], "CompressedNetwork"],
    ) -> "CompressedNetwork":
        """Return what `make` gives for a compression at which it stays within the budget.

        Raises
        ------
        LowRankError
            When no network is fast enough, or `make` refuses.
        """
        ...


@dataclass(frozen=True, eq=False)
class NetworkProblem:
    """A network to compress, with everything that a method may use.

    Attributes
    ----------
    model
        In evaluation mode and float32. Methods never change it.
    target
        `conv`: every convolution and linear layer of a CNN; `linear`: every linear layer and the
        input embedding of a transformer.
    example
        Keyword arguments of one forward, batch size 1; shapes and multiply-adds are those of it.
    batches
        Returns the calibration data, pairs of keyword arguments and labels, the same at every call;
        None without calibration data.
    budget
        What is limited, summed over the targeted layers: `parameters`, `macs` (multiply-adds of
        the example) or `latency` (seconds, measured); or the `bytes` of the whole network, as
        shares of its bytes in float32.
    seed
        Seed of all random choices.
    batch
        Rows of the forward that is timed, for a budget of latency.
    seconds
        How long layers take, for a budget of latency; None for other budgets.
    exclude
        Names of layers that stay as they are (`network.exclude`); the budget is a share of the
        others.
    origin
        The problem of the original network if this one has been compressed before: budgets are
        shares of that. None for the first compression.
    rest
        How biases and all that the target leaves out are stored: `as_is`, or `fp16`.
    row_facts
        Facts about the rows of the embedding that the method needs: `frequency`, `counts`.
    """

    model: nn.Module
    target: str
    example: Inputs
    batches: Batches | None = None
    budget: str = "parameters"
    seed: int = 0
    batch: int = 16
    origin: "NetworkProblem | None" = None
    seconds: SecondsModel | None = None
    exclude: tuple[str, ...] = ()
    rest: str = "as_is"
    row_facts: Mapping[str, Tensor] = field(default_factory=dict)
    _memo: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.budget not in BUDGETS:
            raise LowRankError(f"unknown budget {self.budget!r}; known: {', '.join(BUDGETS)}")
        if self.rest not in RESTS:
            raise LowRankError(f"unknown rest {self.rest!r}; known: {', '.join(RESTS)}")
        if self.budget == "latency":
            _ = self.timing  # refused here rather than after other work

    @property
    def timing(self) -> SecondsModel:
        """Return how long layers take.

        Raises
        ------
        LowRankError
            When the problem has no `seconds`.
        """
        if self.seconds is None:
            raise LowRankError(
                "a budget of latency needs the seconds of layers; give "
                "seconds=lowrank_bench.latency.seconds_for('latency')"
            )
        return self.seconds

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Return the targeted layers, in the order in which the network names them."""
        return find_layers(self.model, self.target, self.example, self.exclude)

    def cached(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return `make()`, called once for each key; methods and compressions share the result."""
        if key not in self._memo:
            self._memo[key] = make()
        value: Made = self._memo[key]
        return value

    def data(self) -> Iterable[tuple[Inputs, Tensor | None]]:
        """Return the calibration batches.

        Raises
        ------
        LowRankError
            When there are no calibration data.
        """
        if self.batches is None:
            raise LowRankError("the method needs calibration inputs; give batches of training data")
        return self.batches()

    @cached_property
    def sizes(self) -> Sizes:
        """Return what the parts of the dense network take on disk."""
        names = [layer.name for layer in self.layers]
        return sizes_of(self.model, names, self.rest, self.exclude)

    def reachable(self, least: float) -> float:
        """Return the largest compression at which the targeted layers may keep `least`."""
        if self.origin is not None:
            return self.origin.reachable(least)
        if self.budget == "bytes":
            return max(1 - (least + self.sizes.outside) / self.sizes.whole, 0.0)
        return max(1 - least / self.allowance(0), 0.0)

    def allowance(self, compression: float) -> float:
        """Return how much of the budget's unit the targeted layers may keep."""
        if self.origin is not None:
            return self.origin.allowance(compression)
        if self.budget == "bytes":
            whole = (1 - compression) * self.sizes.whole * (1 + 1e-12)
            return whole - self.sizes.outside
        if self.budget == "latency":
            dense: float = sum(self.timing.dense_seconds(self).values())
        elif self.budget == "macs":
            dense = sum(layer.macs for layer in self.layers)
        else:
            dense = sum(layer.parameters for layer in self.layers)
        return (1 - compression) * dense * (1 + 1e-12)  # so that rounding costs nothing


@dataclass(frozen=True, eq=False)
class CompressedNetwork:
    """A compressed copy of a network.

    Attributes
    ----------
    model
        A copy with layers replaced or sliced, in evaluation mode.
    layers
        For each targeted layer its `name`, dense `shape` and what was chosen, as JSON values.
    info
        Facts about the result, as JSON values: objective, errors.
    """

    model: nn.Module
    layers: list[dict[str, Any]]
    info: dict[str, Any]
