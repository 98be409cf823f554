"""What all filter-pruning methods share: the units of a network, the budget, the sliced copy."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from lowrank_bench.errors import LowRankError
from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem
from lowrank_bench.prune.graph import ChannelGraph, channels_of, kept_cost, slice_network, trace


def graph_of(problem: NetworkProblem) -> ChannelGraph:
    """Return the units of a problem's network, found once.

    Raises
    ------
    LowRankError
        When a layer cannot be pruned around.
    """
    return problem.cached("channel graph", lambda: _traced(problem))


def _traced(problem: NetworkProblem) -> ChannelGraph:
    graph = trace(problem.model, problem.example)
    unseen = [layer.name for layer in problem.layers if layer.name not in graph.reads]
    if unseen:
        raise LowRankError(
            f"layer {unseen[0]!r} is no convolution or linear layer whose filters can be pruned"
        )
    return graph


def ranked(pools: Sequence[np.ndarray], scores: np.ndarray) -> list[np.ndarray]:
    """Return the units of each pool, the highest score first; of equal ones the first."""
    return [pool[np.argsort(-scores[pool], kind="stable")] for pool in pools]


class Budget:
    """What is left of the budget's unit when each pool keeps its first units.

    Parameters
    ----------
    problem, compression
        What is compressed, and by how much.
    order
        The units of each pool, those first that stay longest.
    """

    def __init__(
        self, problem: NetworkProblem, compression: float, order: Sequence[np.ndarray]
    ) -> None:
        self.graph, self.problem, self.order = graph_of(problem), problem, order
        self.allowance = problem.allowance(compression)
        self.compression = compression

    def cost(self, counts: Sequence[int]) -> float:
        """Return the cost of keeping so many units of each pool."""
        kept = [pool[:count] for pool, count in zip(self.order, counts, strict=True)]
        return self.cost_of(kept)

    def cost_of(self, kept: Sequence[np.ndarray]) -> float:
        """Return the cost of keeping these units of each pool."""
        mask, layers = self.graph.mask(kept), self.problem.layers
        if self.problem.budget == "latency":
            sliced_seconds = self.problem.timing.sliced_seconds
            return sum(
                sliced_seconds(self.problem, layer, *channels_of(self.graph, layer, mask))
                for layer in layers
            )
        return kept_cost(self.graph, layers, mask, self.problem.budget)

    def whole_blocks(self, counts: Sequence[int]) -> list[int]:
        """Return the counts with those that run no slower where larger raised, for latency."""
        found = list(counts)
        if self.problem.budget != "latency":
            return found
        for place, pool in enumerate(self.order):
            raised = [*found]
            raised[place] = self.problem.timing.rounded_up(found[place], len(pool))
            if self.cost(raised) <= max(self.cost(found), self.allowance):
                found = raised
        return found

    def check(self) -> None:
        """Check that one unit in each pool fits.

        Raises
        ------
        LowRankError
            When it does not: with the largest compression that is possible.
        """
        least = self.cost([1] * len(self.order))
        if least > self.allowance:
            everything = [np.concatenate([pool]) for pool in self.order]
            most = 1 - least / self.cost_of(everything)
            raise LowRankError(
                f"compression {self.compression:g} of {self.problem.budget} is out of reach: one "
                f"filter in each of {len(self.order)} groups allows {np.floor(most * 1e4) / 1e4:g}"
            )


def uniform_counts(budget: Budget) -> list[int]:
    """Return how many units each pool keeps when all keep the same share, the largest that fits.

    Raises
    ------
    LowRankError
        When one unit in each pool is too much.
    """
    budget.check()
    sizes = [len(pool) for pool in budget.order]
    levels = np.unique(np.concatenate([np.arange(1, size + 1) / size for size in sizes]))

    def at(level: float) -> list[int]:
        """Return how many filters this share of each pool is."""
        return [max(1, int(level * size + 1e-9)) for size in sizes]

    last = last_that_fits(len(levels), lambda i: _fits(budget, at(levels[i])))
    return budget.whole_blocks(at(levels[last]))


def last_that_fits(count: int, fits: Callable[[int], bool]) -> int:
    """Return the last of 0..count − 1 that fits, where fitting ends once; 0 if none does."""
    low, high = 0, count
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _fits(budget: Budget, counts: list[int]) -> bool:
    return budget.cost(counts) <= budget.allowance


def pruned(
    problem: NetworkProblem,
    kept: Sequence[np.ndarray],
    info: dict[str, Any],
    scale: np.ndarray | None = None,
) -> CompressedNetwork:
    """Return the network with the units that stay.

    Parameters
    ----------
    kept
        Units of each pool.
    info
        What is reported with it.
    scale
        Factors of the units, for their readers' weights.

    Raises
    ------
    LowRankError
        When the network's own code relies on the number of channels.
    """
    graph = graph_of(problem)
    mask = graph.mask(kept)
    model = slice_network(problem.model, graph, mask, scale)
    try:
        with torch.inference_mode():
            model(**problem.example)
    except RuntimeError as error:
        raise LowRankError(
            f"{type(model).__name__} does not run without the pruned channels; its code relies on "
            f"their number ({f'{error}'.splitlines()[0]})"
        ) from None
    layers = []
    for layer in problem.layers:
        inputs, outputs = channels_of(graph, layer, mask)
        one = {"name": layer.name, "shape": list(layer.shape)}
        one |= {"inputs": inputs, "outputs": outputs}
        one["kept"] = np.flatnonzero(mask[graph.writes[layer.name]]).tolist()
        layers.append(one | {"parameters": kept_cost(graph, [layer], mask)})
    return CompressedNetwork(model, layers, info)
