"""One option for each layer, of least total error within a budget of whole bytes: exact, proven."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.allocation import Menu, best_path
from lowrank_bench.network.allocate import Options, cost_of, pareto


@dataclass(frozen=True)
class Division:
    """A division of a budget, and how far it is from the best.

    Attributes
    ----------
    chosen
        One option for each layer.
    error
        The total of their errors.
    bound
        No division within the budget has a smaller total; equal to `error` where the search ended.
    lp_bound
        The least total if layers could mix their options: the bound of the linear program.
    spent
        Cost of the choice.
    """

    chosen: list[int]
    error: float
    bound: float
    lp_bound: float
    spent: float


def divide(layers: Sequence[Options], budget: float) -> Division:
    """Return the choice of least total error.

    The multiple-choice knapsack problem, solved by a Lagrangian bound and a search over the choices
    that it cannot exclude (`linalg.allocation.best_path`).

    Parameters
    ----------
    layers
        Costs are whole numbers.

    Raises
    ------
    LowRankError
        When the cheapest options cost more than the budget.
    """
    fronts = [pareto(layer) for layer in layers]
    least = cost_of(layers, [front[0] for front in fronts])
    if least > budget:
        raise LowRankError(
            f"a budget of {budget:.12g} is below {least:.12g}, the least that the layers can keep; "
            "save less"
        )
    menus = [
        Menu(place, place + 1, layer.cost[front].astype(np.int64), -layer.error[front])
        for place, (layer, front) in enumerate(zip(layers, fronts, strict=True))
    ]
    best = best_path(menus, int(budget))
    chosen = [int(fronts[choice.start][choice.option]) for choice in best.choices]
    error = float(sum(layer.error[option] for layer, option in zip(layers, chosen, strict=True)))
    return Division(
        chosen,
        error,
        min(-best.bound, error),
        min(lp_bound(layers, budget), error),
        cost_of(layers, chosen),
    )


def lp_bound(layers: Sequence[Options], budget: float) -> float:
    """Return the least total error if every layer may mix its options.

    On the lower convex hull of each layer's options, steps are taken in order of the error that
    they save for a unit of cost, the last one in part. This is the optimum of the linear program.

    References
    ----------
    Sinha and Zoltners, "The multiple-choice knapsack problem", Operations Research 27 (1979).
    """
    error = cost = 0.0
    steps: list[tuple[float, float, float]] = []
    for layer in layers:
        hull: list[tuple[float, float]] = []
        for option in pareto(layer):
            point = float(layer.cost[option]), float(layer.error[option])
            while len(hull) > 1 and _above(hull[-2], hull[-1], point):
                hull.pop()
            hull.append(point)
        cost, error = cost + hull[0][0], error + hull[0][1]
        for before, after in pairwise(hull):
            more, less = after[0] - before[0], before[1] - after[1]
            steps.append((less / more, more, less))
    left = budget - cost
    for _, more, less in sorted(steps, reverse=True):
        part = min(1.0, max(left, 0.0) / more)
        error, left = error - part * less, left - more
        if part < 1:
            break
    return error


def _above(
    first: tuple[float, float], middle: tuple[float, float], last: tuple[float, float]
) -> bool:
    """Return whether the middle point lies on or above the line between its neighbours."""
    rise = (middle[1] - first[1]) * (last[0] - first[0])
    return rise >= (last[1] - first[1]) * (middle[0] - first[0])
