"""The common parts of filter pruning: the units of a network, the budget, the sliced copy."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowrank_bench.errors import LowRankError
from lowrank_bench.network.exclude import excluded
from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem
from lowrank_bench.prune.graph import ChannelGraph, channels_of, kept_cost, slice_network, trace
from lowrank_bench.prune.verify import Pair, check_sliced

Units = NDArray[np.int64]  # indices of units


def graph_of(problem: NetworkProblem) -> ChannelGraph:
    """Return the units of a problem's network; traced once.

    Raises
    ------
    LowRankError
        When a layer of the network cannot be handled.
    """
    return problem.cached("channel graph", lambda: _traced(problem))


def _traced(problem: NetworkProblem) -> ChannelGraph:
    left = excluded(problem.model, problem.exclude)
    graph = trace(problem.model, problem.example, left)
    unseen = [layer.name for layer in problem.layers if layer.name not in graph.reads]
    if unseen:
        raise LowRankError(
            f"layer {unseen[0]!r} is not a convolution or linear layer whose filters can be pruned"
        )
    return graph


def ranked(pools: Sequence[Units], scores: NDArray[np.floating[Any]]) -> list[Units]:
    """Return the units of each pool by falling score; ties keep their order."""
    return [pool[np.argsort(-scores[pool], kind="stable")] for pool in pools]


class Budget:
    """The cost of a pruned network in units of the budget, if each pool keeps its first units.

    Parameters
    ----------
    problem, compression
        The network and the share of the budget to save.
    order
        The units of each pool, the most important first.
    """

    def __init__(self, problem: NetworkProblem, compression: float, order: Sequence[Units]) -> None:
        self.graph, self.problem, self.order = graph_of(problem), problem, order
        self.allowance = problem.allowance(compression)
        self.compression = compression

    def cost(self, counts: Sequence[int]) -> float:
        """Return the cost if each pool keeps this number of units."""
        kept = [pool[:count] for pool, count in zip(self.order, counts, strict=True)]
        return self.cost_of(kept)

    def cost_of(self, kept: Sequence[Units]) -> float:
        """Return the cost if each pool keeps these units."""
        mask, layers = self.graph.mask(kept), self.problem.layers
        if self.problem.budget == "latency":
            sliced_seconds = self.problem.timing.sliced_seconds
            return sum(
                sliced_seconds(self.problem, layer, *channels_of(self.graph, layer, mask))
                for layer in layers
            )
        if self.problem.budget == "bytes":  # the widest number for all: never less than is stored
            number = max(self.problem.sizes.number.values())
            return number * kept_cost(self.graph, layers, mask)
        return kept_cost(self.graph, layers, mask, self.problem.budget)

    def whole_blocks(self, counts: Sequence[int]) -> list[int]:
        """Return the counts rounded up to whole blocks of channels where that fits, for latency."""
        kept = list(counts)
        if self.problem.budget != "latency":
            return kept
        for place, pool in enumerate(self.order):
            raised = [*kept]
            raised[place] = self.problem.timing.rounded_up(kept[place], len(pool))
            if self.cost(raised) <= max(self.cost(kept), self.allowance):
                kept = raised
        return kept

    def check(self) -> None:
        """Check that one unit in each pool fits.

        Raises
        ------
        LowRankError
            When it does not; the message names the largest compression that is possible.
        """
        least = self.cost([1] * len(self.order))
        if least > self.allowance:
            everything = [np.concatenate([pool]) for pool in self.order]
            most = 1 - least / self.cost_of(everything)
            if self.problem.budget == "bytes":
                most = self.problem.reachable(least)
            raise LowRankError(
                f"compression {self.compression:g} of {self.problem.budget} is out of reach: one "
                f"filter in each of {len(self.order)} groups allows {np.floor(most * 1e4) / 1e4:g}"
            )


def uniform_counts(budget: Budget) -> list[int]:
    """Return how many units each pool keeps if all keep the same share, the largest that fits.

    Raises
    ------
    LowRankError
        When one unit in each pool exceeds the budget.
    """
    budget.check()
    sizes = [len(pool) for pool in budget.order]
    levels = np.unique(np.concatenate([np.arange(1, size + 1) / size for size in sizes]))

    def at(level: float) -> list[int]:
        """Return the number of units that this share of each pool is, at least one."""
        return [max(1, int(level * size + 1e-9)) for size in sizes]

    last = last_that_fits(len(levels), lambda i: _fits(budget, at(levels[i])))
    return budget.whole_blocks(at(levels[last]))


def last_that_fits(count: int, fits: Callable[[int], bool]) -> int:
    """Return the last of 0..count − 1 that fits, if all before it fit as well; 0 if none fits."""
    low, high = 0, count
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _fits(budget: Budget, counts: list[int]) -> bool:
    return budget.cost(counts) <= budget.allowance


def pruned(
    problem: NetworkProblem,
    kept: Sequence[Units],
    info: dict[str, Any],
    scale: NDArray[np.float64] | None = None,
) -> CompressedNetwork:
    """Return a copy of the network without the other units.

    Parameters
    ----------
    kept
        Units of each pool that stay.
    info
        Facts to report with the result.
    scale
        A factor for each unit, applied to the weights that read it.

    Raises
    ------
    LowRankError
        When the code of the network depends on the number or the place of channels, so that the
        copy would not compute what the network does without the pruned ones (`verify`).
    """
    graph = graph_of(problem)
    mask = graph.mask(kept)
    model = slice_network(problem.model, graph, mask, scale)
    check_sliced(Pair(problem.model, model, graph, mask, scale), problem.example)
    # The graph counts what stays, so no sizes are read off the sliced network.
    layers = []
    for layer in problem.layers:
        inputs, outputs = channels_of(graph, layer, mask)
        row: dict[str, Any] = {"name": layer.name, "shape": list(layer.shape)}
        row |= {"inputs": inputs, "outputs": outputs}
        row["kept"] = np.flatnonzero(mask[graph.writes[layer.name]]).tolist()
        layers.append(row | {"parameters": kept_cost(graph, [layer], mask)})
    return CompressedNetwork(model, layers, info)
