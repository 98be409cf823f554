"""Divide one budget over the layers of a network by choosing an option for each.

Every layer has a list of options, each with its cost and its error. Only the budget couples the
layers, so each rule below reduces to one level that all layers share (an error, a share of the
dense cost, a price), which is found by bisection.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ldexp, log2

import numpy as np
from numpy.typing import NDArray

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.allocation import Menu, best_path

# Relative; budgets are shares of whole numbers, and rounding in float64 must not exclude an option.
SLACK = 1e-12
GAP = 1e-4  # relative distance of `least_sum` from the optimum
FREE = 1e-200  # stands for a cost of zero in a division
BITS = 40  # precision to which costs that are not whole numbers are rounded

Indices = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Options:
    """The options of one layer, in any order; leaving it dense is one, with error 0.

    Attributes
    ----------
    cost
        float64 m ≥ 0: parameters, multiply-adds or seconds.
    error
        float64 m ≥ 0; infinite if not known.
    """

    cost: Floats
    error: Floats

    def __post_init__(self) -> None:
        if self.cost.shape != self.error.shape or self.cost.ndim != 1 or not len(self.cost):
            raise LowRankError(
                f"options need one cost and one error each, not shapes {self.cost.shape} "
                f"and {self.error.shape}"
            )
        if not np.isfinite(self.cost).all() or np.isnan(self.error).any():
            raise LowRankError("an option costs NaN or infinity, or its error is NaN; drop it")


def pareto(options: Options) -> Indices:
    """Return the options that no other dominates: int64 indices, cost rising and error falling."""
    order: Indices = np.lexsort((options.error, options.cost))
    error = options.error[order]
    better = error[1:] < np.minimum.accumulate(error)[:-1]
    front: Indices = order[np.concatenate([[True], better])]
    return front


def minimax(layers: Sequence[Options], budget: float) -> list[int]:
    """Return one option for each layer, such that the largest error within the budget is least.

    A level of error is feasible if the cheapest options at or below it fit the budget together. The
    least feasible level is one of the listed errors, found by bisection. It is the optimum, because
    the layers share only the budget. `spend` uses what is then left of the budget.

    Raises
    ------
    LowRankError
        When the cheapest options cost more than the budget.

    References
    ----------
    Liebenwein et al., "Compressing Neural Networks: Towards Determining the Optimal Layer-wise
    Decomposition", NeurIPS 2021, eq. (8), which searches the same optimum from random starts.
    """
    return spend(layers, energy(layers, budget), budget)


def energy(layers: Sequence[Options], budget: float) -> list[int]:
    """Return the cheapest option of each layer whose error is at most a common threshold.

    The threshold is the least that fits the budget. If the error is the share of squared singular
    values that is lost, this is the allocation by energy.

    Raises
    ------
    LowRankError
        When the cheapest options cost more than the budget.
    """
    fronts, budget = _prepared(layers, budget)
    # Negated, errors rise along a front, as the bisection needs them.
    rising = [-layer.error[front] for layer, front in zip(layers, fronts, strict=True)]
    levels = np.unique(np.concatenate(rising))

    def at(level: float) -> list[int]:
        """Return the first place on each front whose error is at most the level's."""
        return [min(int(np.searchsorted(error, level)), len(error) - 1) for error in rising]

    return _largest(levels, at, layers, fronts, budget)


def uniform(layers: Sequence[Options], budget: float) -> list[int]:
    """Return for each layer the least error that a common share of its dense cost allows.

    The share is the largest that fits the budget. A layer whose cheapest option exceeds the share
    takes that option.

    Raises
    ------
    LowRankError
        When the cheapest options cost more than the budget.
    """
    fronts, budget = _prepared(layers, budget)
    shares = []
    for layer, front in zip(layers, fronts, strict=True):
        dense = layer.cost[front[-1]]
        shares.append(layer.cost[front] / dense if dense > 0 else np.zeros(len(front)))
    levels = np.unique(np.concatenate([*shares, [0.0]]))

    def at(level: float) -> list[int]:
        """Return the last place on each front that costs at most this share."""
        return [max(int(np.searchsorted(share, level, "right")) - 1, 0) for share in shares]

    return _largest(levels, at, layers, fronts, budget)


def least_sum(
    layers: Sequence[Options], budget: float, weights: Sequence[float] | None = None
) -> list[int]:
    """Return one option for each layer, such that the weighted sum of errors is least.

    This is a multiple-choice knapsack problem. A common price per unit of cost gives a lower bound
    (on the layers' convex hulls), and the options that the bound cannot exclude are searched. The
    sum exceeds the optimum by at most `GAP` times the sum of the cheapest options' errors, unless
    more than 20 000 partial choices stay open at a layer. Costs that are not whole numbers are
    rounded up to multiples of budget/2⁴⁰.

    Parameters
    ----------
    weights
        One positive number for each layer; by default 1.

    Raises
    ------
    LowRankError
        When the cheapest options cost more than the budget.
    """
    scale = np.ones(len(layers)) if weights is None else np.asarray(weights, dtype=np.float64)
    if scale.shape != (len(layers),) or not (np.isfinite(scale) & (scale > 0)).all():
        raise LowRankError(f"weights must be {len(layers)} positive numbers, one for each layer")
    fronts, budget = _prepared(layers, budget)
    worst = sum(
        weight * layer.error[front[0]]
        for weight, layer, front in zip(scale, layers, fronts, strict=True)
    )
    # The search takes whole costs and maximizes gains: an error is a negative gain.
    unit = _unit([layer.cost for layer in layers], budget)
    menus = []
    for place, (layer, front) in enumerate(zip(layers, fronts, strict=True)):
        costs = np.ceil(layer.cost[front] / unit).astype(np.int64)
        menus.append(Menu(place, place + 1, costs, -scale[place] * layer.error[front]))
    best = best_path(menus, int(budget / unit), tolerance=GAP * worst)
    return [int(fronts[choice.start][choice.option]) for choice in best.choices]


def spend(layers: Sequence[Options], chosen: Sequence[int], budget: float) -> list[int]:
    """Return the choice after spending the rest of the budget where it lowers errors most.

    Each step takes the option that fits and lowers its layer's error most per unit of cost. No
    error ever rises.
    """
    chosen = list(chosen)
    left = budget * (1 + SLACK) - cost_of(layers, chosen)
    # The best affordable step of each layer: (gain per cost, option), a gain ≤ 0 for none.
    steps = [_next(layer, option, left) for layer, option in zip(layers, chosen, strict=True)]
    while steps and (best := max(range(len(steps)), key=lambda place: steps[place][0])) >= 0:
        if steps[best][0] <= 0:
            break
        old, chosen[best] = chosen[best], steps[best][1]
        left -= layers[best].cost[chosen[best]] - layers[best].cost[old]
        # Only the layer that changed, and steps that no longer fit, need a new best step.
        for place, layer in enumerate(layers):
            gain, option = steps[place]
            more = layer.cost[option] - layer.cost[chosen[place]]
            if place == best or (gain > 0 and more > left):
                steps[place] = _next(layer, chosen[place], left)
    return chosen


def cost_of(layers: Sequence[Options], chosen: Sequence[int]) -> float:
    """Return the total cost of a choice."""
    return float(sum(layer.cost[option] for layer, option in zip(layers, chosen, strict=True)))


def _next(layer: Options, option: int, left: float) -> tuple[float, int]:
    """Return the error per unit of cost that the best step within `left` saves, and its option."""
    more = layer.cost - layer.cost[option]
    less = layer.error[option] - layer.error
    fits = (more <= left) & (less > 0)
    rate = np.where(fits, less, 0.0) / np.maximum(more, FREE)
    best = int(rate.argmax())
    return float(rate[best]), best


def _prepared(layers: Sequence[Options], budget: float) -> tuple[list[Indices], float]:
    """Return the Pareto front of each layer, and the budget with room for rounding.

    Raises
    ------
    LowRankError
        When the cheapest options cost more than the budget.
    """
    fronts = [pareto(layer) for layer in layers]
    least = cost_of(layers, [front[0] for front in fronts])
    if not least <= budget * (1 + SLACK):
        raise LowRankError(
            f"a budget of {budget:.12g} is below {least:.12g}, the least that the layers can keep; "
            "lower the compression"
        )
    return fronts, budget * (1 + SLACK)


def _largest(
    levels: Floats,
    at: Callable[[float], list[int]],
    layers: Sequence[Options],
    fronts: Sequence[Indices],
    budget: float,
) -> list[int]:
    """Return the options at the largest of the rising `levels` that fits the budget.

    Parameters
    ----------
    at
        Returns for a level the place on each front.
    """

    def options(places: list[int]) -> list[int]:
        """Return the options at these places on the fronts."""
        return [int(front[place]) for front, place in zip(fronts, places, strict=True)]

    low, high = -1, len(levels)  # the level at `low` fits, the one at `high` does not
    while high - low > 1:
        middle = (low + high) // 2
        if cost_of(layers, options(at(levels[middle]))) <= budget:
            low = middle
        else:
            high = middle
    return options(at(levels[low]) if low >= 0 else [0] * len(fronts))


def _unit(costs: Sequence[Floats], budget: float) -> float:
    """Return 1 if all costs are whole numbers, else a small share of the budget."""
    if all((cost == np.rint(cost)).all() for cost in costs):
        return 1.0
    return ldexp(1.0, int(np.floor(log2(budget))) - BITS)
