"""The baselines: one score for each unit of channels, and the same share kept of every pool."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem
from lowrank_bench.prune.examples import examples_in, first_examples
from lowrank_bench.prune.scores import filter_norms, removal_order, sampled_products
from lowrank_bench.prune.select import Budget, graph_of, pruned, ranked, uniform_counts
from lowrank_bench.prune.shortage import unseen_by_layer, warn_of_shortage


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
    scores, silent, images = problem.cached(("thinet", samples), lambda: _thinet(problem, samples))
    info: dict[str, Any] = {"images": images}
    result = _prune(problem, compression, scores, info)
    if images < samples:
        _warn_if_unranked(problem, result, silent, images, samples)
    return result


def _warn_if_unranked(
    problem: NetworkProblem,
    result: CompressedNetwork,
    silent: NDArray[np.bool_],
    images: int,
    samples: int,
) -> None:
    """Warn where only some of a pool's silent units are removed: nothing tells which ones."""
    graph, kept = graph_of(problem), np.zeros(len(silent), dtype=bool)
    for row in result.layers:
        kept[graph.writes[row["name"]][row["kept"]]] = True
    pools = [pool for pool in graph.pools if silent[pool].any() and not kept[pool].all()]
    pools = [pool for pool in pools if (silent[pool] & kept[pool]).any()]
    if pools:
        unseen = unseen_by_layer(graph, silent, pools)
        result.info["unseen_filters"] = unseen
        warn_of_shortage("thinet", unseen, images, f"give {samples}")


def _thinet(
    problem: NetworkProblem, samples: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_], int]:
    """Return each unit's rank in the order of removal, if it is silent, and the number of images.

    A silent unit contributes nothing to any sampled output.
    """
    graph = graph_of(problem)
    batches = list(first_examples(problem.data(), samples))
    products = sampled_products(problem.model, graph, batches, samples, problem.seed)
    scores, silent = np.zeros(graph.n_units), np.zeros(graph.n_units, dtype=bool)
    for pool in graph.pools:
        rows = [products[name][:, pool] for name in graph.readers(pool) if name in products]
        together = np.concatenate(rows or [np.zeros((1, len(pool)))])
        silent[pool] = ~together.any(axis=0)
        order = removal_order(together)
        scores[pool[order]] = np.arange(1, len(order) + 1)
    return scores, silent, examples_in(batches)


def _prune(
    problem: NetworkProblem,
    compression: float,
    scores: NDArray[np.float64],
    info: dict[str, Any],
) -> CompressedNetwork:
    order = ranked(graph_of(problem).pools, scores)
    counts = uniform_counts(Budget(problem, compression, order))
    kept = [pool[:count] for pool, count in zip(order, counts, strict=True)]
    return pruned(problem, kept, info)
