"""Provable filter pruning (PFP): sensitivities, one error for all pools, the channels kept."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem
from lowrank_bench.prune.draw import draw
from lowrank_bench.prune.examples import examples_in, first_examples
from lowrank_bench.prune.graph import ChannelGraph, Units
from lowrank_bench.prune.sample_size import Pool, images_needed, least_error, log_factor
from lowrank_bench.prune.select import Budget, graph_of, pruned, ranked
from lowrank_bench.prune.sensitivity import sensitivities


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
    counts = budget.whole_blocks(counts)
    kept, scale = [], np.ones(graph.n_units)
    for place, (units, count) in enumerate(zip(graph.pools, counts, strict=True)):
        # Each pool has its own generator: its draw does not depend on the other pools' counts.
        rng = np.random.default_rng([problem.seed, place])
        drawn, factors = draw(pools[place].probabilities, count, variant, rng)
        kept.append(units[drawn])
        scale[units[drawn]] = factors
    info = {"error": error, "images": images, "images_wanted": wanted}
    return pruned(problem, kept, info, scale)


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
    graph = graph_of(problem)
    targeted = {layer.name for layer in problem.layers}
    names = [name for name, units in graph.reads.items() if units.any() and name in targeted]
    batches = list(first_examples(problem.data(), wanted))
    by_layer = sensitivities(problem.model, names, batches)
    scores = unit_sensitivities(graph, {name: part.numpy() for name, part in by_layer.items()})
    return scores, examples_in(batches)


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
