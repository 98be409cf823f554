"""The baselines: one score for each unit of channels, and the same share kept of every pool."""

import numpy as np
from numpy.typing import NDArray

from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem
from lowrank_bench.prune.examples import examples_in, first_examples
from lowrank_bench.prune.scores import filter_norms, removal_order, sampled_products
from lowrank_bench.prune.select import Budget, graph_of, pruned, ranked, uniform_counts


def prune_by_norm(problem: NetworkProblem, compression: float, power: int) -> CompressedNetwork:
    """Return a network without the units whose filters have the smallest ℓp norm.

    Raises
    ------
    LowRankError
        When the budget is out of reach, or the filters around a layer cannot be pruned.
    """
    graph = graph_of(problem)
    scores = problem.cached(("norms", power), lambda: filter_norms(problem.model, graph, power))
    return _prune(problem, compression, scores, {})


def prune_by_products(
    problem: NetworkProblem, compression: float, samples: int
) -> CompressedNetwork:
    """Return a network without the units whose removal changes sampled outputs least (ThiNet).

    Raises
    ------
    LowRankError
        When the budget is out of reach, when there are no data, or when the filters around a layer
        cannot be pruned.
    """
    scores, images = problem.cached(("thinet", samples), lambda: _thinet(problem, samples))
    return _prune(problem, compression, scores, {"images": images})


def _thinet(problem: NetworkProblem, samples: int) -> tuple[NDArray[np.float64], int]:
    """Return the rank of each unit in the order of removal, and the number of images."""
    graph = graph_of(problem)
    batches = list(first_examples(problem.data(), samples))
    products = sampled_products(problem.model, graph, batches, samples, problem.seed)
    scores = np.zeros(graph.n_units)
    for pool in graph.pools:
        rows = [products[name][:, pool] for name in graph.readers(pool) if name in products]
        order = removal_order(np.concatenate(rows or [np.zeros((1, len(pool)))]))
        scores[pool[order]] = np.arange(1, len(order) + 1)
    return scores, examples_in(batches)


def _prune(
    problem: NetworkProblem,
    compression: float,
    scores: NDArray[np.float64],
    info: dict[str, int],
) -> CompressedNetwork:
    order = ranked(graph_of(problem).pools, scores)
    counts = uniform_counts(Budget(problem, compression, order))
    kept = [pool[:count] for pool, count in zip(order, counts, strict=True)]
    return pruned(problem, kept, info)
