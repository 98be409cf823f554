"""Provable filter pruning: sensitivities, one error for all pools, and the channels that stay."""

import numpy as np

from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem
from lowrank_bench.prune.draw import draw
from lowrank_bench.prune.graph import ChannelGraph
from lowrank_bench.prune.sample_size import Pool, images_needed, least_error, log_factor
from lowrank_bench.prune.select import Budget, graph_of, pruned, ranked
from lowrank_bench.prune.sensitivity import first_examples, sensitivities


def prune(
    problem: NetworkProblem, compression: float, variant: str, delta: float, samples: int | None
) -> CompressedNetwork:
    """Return a network pruned by PFP within the budget.

    Parameters
    ----------
    variant, delta, samples
        As in `methods.pfp`.

    Raises
    ------
    LowRankError
        When the budget is out of reach, there are no data, or a layer cannot be pruned around.
    """
    graph = graph_of(problem)
    wanted = samples or images_needed(problem.layers, delta)
    scores, images = problem.cached(("sensitivity", wanted), lambda: _scores(problem, wanted))
    pools = [_pool(problem, graph, units, scores, delta) for units in graph.pools]
    order = ranked(graph.pools, scores)
    budget = Budget(problem, compression, order)
    budget.check()
    error, counts = least_error(pools, budget.cost, budget.allowance)
    counts = budget.whole_blocks(counts)
    kept, scale = [], np.ones(graph.n_units)
    for place, (units, count) in enumerate(zip(graph.pools, counts, strict=True)):
        rng = np.random.default_rng([problem.seed, place])
        found, factors = draw(pools[place].probabilities, count, variant, rng)
        kept.append(units[found])
        scale[units[found]] = factors
    info = {"error": error, "images": images, "images_wanted": wanted}
    return pruned(problem, kept, info, scale)


def unit_sensitivities(graph: ChannelGraph, found: dict[str, np.ndarray]) -> np.ndarray:
    """Return for each unit the largest sensitivity in any layer that reads it, float64."""
    scores = np.zeros(graph.n_units)
    for name, values in found.items():
        np.maximum.at(scores, graph.reads[name], values)
    return scores


def _scores(problem: NetworkProblem, wanted: int) -> tuple[np.ndarray, int]:
    """Return the sensitivity of each unit, and the number of images that it rests on."""
    graph = graph_of(problem)
    targeted = {layer.name for layer in problem.layers}
    names = [name for name, units in graph.reads.items() if units.any() and name in targeted]
    batches = list(first_examples(problem.data(), wanted))
    found = sensitivities(problem.model, names, batches)
    scores = unit_sensitivities(graph, {name: part.numpy() for name, part in found.items()})
    return scores, sum(len(next(iter(batch.values()))) for batch in batches)


def _pool(
    problem: NetworkProblem,
    graph: ChannelGraph,
    units: np.ndarray,
    scores: np.ndarray,
    delta: float,
) -> Pool:
    readers = set(graph.readers(units))
    layers = [layer for layer in problem.layers if layer.name in readers]
    return Pool(scores[units], log_factor(layers or problem.layers, delta))
