"""The seconds of a network's layers on this machine, as a budget of latency needs them."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lowrank_bench.latency import promise, seconds, tables
from lowrank_bench.network.layers import Layer
from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem


class MeasuredSeconds:
    """Seconds measured on this machine; implements `network.problem.SecondsModel`.

    All measurements are cached in the problem, so one object serves any number of problems.

    Attributes
    ----------
    max_groups
        Most groups of a cut, unless more are asked for.
    """

    max_groups: int = tables.MAX_GROUPS

    def dense_seconds(self, problem: NetworkProblem) -> dict[str, float]:
        """Return the seconds of each targeted layer of the dense network."""
        return seconds.dense_seconds(problem)

    def rank_seconds(
        self, problem: NetworkProblem, layer: Layer, scheme: int = 0, groups: int = 1
    ) -> NDArray[np.float64]:
        """Return the seconds of a factorized layer at ranks 1, 2, …, float64 r."""
        return tables.rank_seconds(problem, layer, scheme, groups)

    def sliced_seconds(
        self, problem: NetworkProblem, layer: Layer, inputs: int, outputs: int
    ) -> float:
        """Return the seconds of a layer with fewer input and output channels."""
        return tables.sliced_seconds(problem, layer, inputs, outputs)

    def rounded_up(self, size: int, full: int) -> int:
        """Return the largest number of channels, `full` at most, that is as fast as `size`."""
        return tables.rounded_up(size, full)

    def within(
        self,
        problem: NetworkProblem,
        compression: float,
        make: Callable[[float], CompressedNetwork],
    ) -> CompressedNetwork:
        """Return a network that stays within the budget when it is measured.

        Raises
        ------
        LowRankError
            When no network is fast enough, or `make` refuses.
        """
        return promise.within_latency(problem, compression, make)
