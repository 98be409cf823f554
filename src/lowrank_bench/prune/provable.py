"""Provable filter pruning (PFP): sensitivities, one error for all pools, the channels kept."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem
from lowrank_bench.prune.draw import draw
from lowrank_bench.prune.examples import examples_in, first_examples
from lowrank_bench.prune.graph import ChannelGraph, Units
from lowrank_bench.prune.sample_size import Pool, images_needed, least_error, log_factor
from lowrank_bench.prune.select import Budget, graph_of, pruned, ranked
from lowrank_bench.prune.sensitivity import sensitivities
from lowrank_bench.prune.shortage import (
    filled,
    noisy_copies,
    unseen_by_layer,
    warn_of_shortage,
)


def prune(
    problem: NetworkProblem, compression: float, variant: str, delta: float, samples: int | None
) -> CompressedNetwork:
    """Return a network pruned by provable filter pruning within the budget.

    Parameters
    ----------
    variant, delta, samples
        As in `methods.pfp`.

    Raises
    ------
    LowRankError
        When the budget is out of reach, when there are no data, or when the filters around a layer
        cannot be pruned.
    """
    graph = graph_of(problem)
    wanted = samples or images_needed(problem.layers, delta)
    scores, images = problem.cached(("sensitivity", wanted), lambda: _scores(problem, wanted))
    pools = [_pool(problem, graph, units, scores, delta) for units in graph.pools]
    # Before the draw, a number of units is priced as if the most sensitive ones stayed.
    order = ranked(graph.pools, scores)
    budget = Budget(problem, compression, order)
    budget.check()
    error, counts = least_error(pools, budget.cost, budget.allowance)
    info: dict[str, Any] = {"error": error, "images": images, "images_wanted": wanted}
    if error == 0:  # every unit that contributes stays, and there is room for others
        unseen = unseen_by_layer(graph, scores == 0, graph.pools)
        needed = images_needed(problem.layers, delta)
        if images < needed:
            warn_of_shortage("pfp", unseen, images, f"give {needed}, as the paper does")
        info["unseen_filters"] = unseen
        order, counts = _with_unseen(problem, compression, counts, scores, wanted)
        budget = Budget(problem, compression, order)
    counts = budget.whole_blocks(counts)
    kept, scale = [], np.ones(graph.n_units)
    for place, (units, count) in enumerate(zip(graph.pools, counts, strict=True)):
        # Each pool has its own generator: its draw does not depend on the other pools' counts.
        rng = np.random.default_rng([problem.seed, place])
        ever = int((scores[units] > 0).sum())
        if count >= max(ever, 1):  # nothing to choose: all that contribute, then the next in order
            kept.append(order[place][:count])
            continue
        drawn, factors = draw(pools[place].probabilities, count, variant, rng)
        kept.append(units[drawn])
        scale[units[drawn]] = factors
    return pruned(problem, kept, info, scale)


def _with_unseen(
    problem: NetworkProblem,
    compression: float,
    counts: list[int],
    scores: NDArray[np.float64],
    wanted: int,
) -> tuple[list[Units], list[int]]:
    """Return an order of the units, and how many stay, where all that contribute fit.

    Units without any sensitivity follow those that have some: first those that contribute on noisy
    copies of the images, by their sensitivity there, then dead ones. As many stay as fit, dead ones
    only when all others do.
    """
    graph = graph_of(problem)
    near = problem.cached(("near sensitivity", wanted), lambda: _near_scores(problem, wanted))
    # Sensitivities are in [0, 1]: those on the images come before those on the copies.
    both = np.where(scores > 0, scores, near - 2)
    order = ranked(graph.pools, both)
    budget = Budget(problem, compression, order)

    def fits(trial: list[int]) -> bool:
        """Return whether counts stay within the budget."""
        return budget.cost(trial) <= budget.allowance

    alive = [max(1, int((both[pool] > -2).sum())) for pool in graph.pools]
    counts = filled(counts, alive, fits)
    return order, filled(counts, [len(pool) for pool in graph.pools], fits)


def unit_sensitivities(
    graph: ChannelGraph, by_layer: Mapping[str, NDArray[np.float32]]
) -> NDArray[np.float64]:
    """Return for each unit the largest sensitivity in any layer that reads it, float64.

    Parameters
    ----------
    by_layer
        For each layer the sensitivities of its input channels.
    """
    scores = np.zeros(graph.n_units)
    for name, values in by_layer.items():
        np.maximum.at(scores, graph.reads[name], values)
    return scores


def _scores(problem: NetworkProblem, wanted: int) -> tuple[NDArray[np.float64], int]:
    """Return the sensitivity of each unit, and the number of images that it is computed from."""
    batches = list(first_examples(problem.data(), wanted))
    return _scores_on(problem, batches), examples_in(batches)


def _near_scores(problem: NetworkProblem, wanted: int) -> NDArray[np.float64]:
    """Return the sensitivity of each unit on noisy copies of the images."""
    batches = list(first_examples(problem.data(), wanted))
    return _scores_on(problem, noisy_copies(batches))


def _scores_on(
    problem: NetworkProblem, batches: Sequence[Mapping[str, Tensor]]
) -> NDArray[np.float64]:
    """Return the sensitivity of each unit on some batches."""
    graph = graph_of(problem)
    targeted = {layer.name for layer in problem.layers}
    names = [name for name, units in graph.reads.items() if units.any() and name in targeted]
    by_layer = sensitivities(problem.model, names, batches)
    return unit_sensitivities(graph, {name: part.numpy() for name, part in by_layer.items()})


def _pool(
    problem: NetworkProblem,
    graph: ChannelGraph,
    units: Units,
    scores: NDArray[np.float64],
    delta: float,
) -> Pool:
    """Return the sensitivities of a pool, with the sample size that its targeted readers need."""
    readers = set(graph.readers(units))
    layers = [layer for layer in problem.layers if layer.name in readers]
    return Pool(scores[units], log_factor(layers or problem.layers, delta))
