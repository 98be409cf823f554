"""One budget divided over the layers of a network: which option each layer takes.

Every layer brings a list of options, each with what it costs and the error that it leaves. The
layers are coupled through the budget alone, so each rule below reduces to one level that all
layers share (an error, a share of the dense cost, a price), found by bisection.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ldexp, log2

import numpy as np

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.allocation import Menu, best_path

# Budgets are shares of whole numbers, computed in float64: rounding must not cost an option.
SLACK = 1e-12
GAP = 1e-4  # of `least_sum`, relative
FREE = 1e-200  # cost of a step that costs nothing, to divide by
BITS = 40  # of the whole numbers that stand for costs which are not whole


@dataclass(frozen=True, eq=False)
class Options:
    """What one layer can become, in any order; leaving it dense is an option of error 0.

    Attributes
    ----------
    cost
        float64 m ≥ 0: parameters, multiply-adds or seconds.
    error
        float64 m ≥ 0; infinite where it is not known.
    """

    cost: np.ndarray
    error: np.ndarray

    def __post_init__(self) -> None:
        if self.cost.shape != self.error.shape or self.cost.ndim != 1 or not len(self.cost):
            raise LowRankError(
                f"options need one cost and one error each, not shapes {self.cost.shape} "
                f"and {self.error.shape}"
            )
        if not np.isfinite(self.cost).all() or np.isnan(self.error).any():
            raise LowRankError("an option costs NaN or infinity, or its error is NaN; drop it")


def pareto(options: Options) -> np.ndarray:
    """Return the options that no other beats: int64 indices, cost rising and error falling."""
    order = np.lexsort((options.error, options.cost))
    error = options.error[order]
    better = error[1:] < np.minimum.accumulate(error)[:-1]
    return order[np.concatenate([[True], better])]


def minimax(layers: Sequence[Options], budget: float) -> list[int]:
    """Return one option for each layer, of the least largest error within the budget.

    A level of error fits when every layer's cheapest option at or below it fits together; the
    least such level is an error of the lists, found by bisection. That is the optimum: the layers
    share nothing but the budget. What the budget then leaves is spent by `spend`.

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
    """Return the cheapest option of each layer whose error is below one threshold for all.

    The threshold is the least that fits the budget. With the share of squared singular values that
    is lost as error, this is the allocation by energy.

    Raises
    ------
    LowRankError
        When the cheapest options cost more than the budget.
    """
    fronts = [pareto(layer) for layer in layers]
    budget = _checked(layers, fronts, budget)
    # With the sign turned, errors rise along a front, as the bisection wants them.
    rising = [-layer.error[front] for layer, front in zip(layers, fronts, strict=True)]
    levels = np.unique(np.concatenate(rising))

    def at(level: float) -> list[int]:
        """Return the first place on each front whose error is at most that of the level."""
        return [min(int(np.searchsorted(error, level)), len(error) - 1) for error in rising]

    places = _largest(levels, at, layers, fronts, budget)
    return [int(front[place]) for front, place in zip(fronts, places, strict=True)]


def uniform(layers: Sequence[Options], budget: float) -> list[int]:
    """Return for each layer the least error that the same share of its dense cost allows.

    The share is the largest that fits the budget. Where not even the cheapest option keeps to the
    share, that one is taken.

    Raises
    ------
    LowRankError
        When the cheapest options cost more than the budget.
    """
    fronts = [pareto(layer) for layer in layers]
    budget = _checked(layers, fronts, budget)
    shares = []
    for layer, front in zip(layers, fronts, strict=True):
        dense = layer.cost[front[-1]]
        shares.append(layer.cost[front] / dense if dense > 0 else np.zeros(len(front)))
    levels = np.unique(np.concatenate([*shares, [0.0]]))

    def at(level: float) -> list[int]:
        """Return the last place on each front that keeps at most this share."""
        return [max(int(np.searchsorted(share, level, "right")) - 1, 0) for share in shares]

    places = _largest(levels, at, layers, fronts, budget)
    return [int(front[place]) for front, place in zip(fronts, places, strict=True)]


def least_sum(
    layers: Sequence[Options], budget: float, weights: Sequence[float] | None = None
) -> list[int]:
    """Return one option for each layer, of the least weighted sum of errors within the budget.

    A multiple-choice knapsack: one price per unit of cost for all layers bounds the sum from below
    (the layers' convex hulls), and the options that this bound cannot exclude are searched. The sum
    is at most `GAP` times the sum of the cheapest options' errors above the optimum, unless more
    than 20 000 partial choices stay open at a layer. Costs that are not whole numbers are rounded
    up to multiples of budget/2⁴⁰.

    Parameters
    ----------
    weights
        One positive number for each layer; 1 where not given.

    Raises
    ------
    LowRankError
        When the cheapest options cost more than the budget.
    """
    scale = np.ones(len(layers)) if weights is None else np.asarray(weights, dtype=np.float64)
    if scale.shape != (len(layers),) or not (np.isfinite(scale) & (scale > 0)).all():
        raise LowRankError(f"weights must be {len(layers)} positive numbers, one for each layer")
    fronts = [pareto(layer) for layer in layers]
    budget = _checked(layers, fronts, budget)
    worst = sum(
        weight * layer.error[front[0]]
        for weight, layer, front in zip(scale, layers, fronts, strict=True)
    )
    unit = _unit([layer.cost for layer in layers], budget)
    menus = []
    for place, (layer, front) in enumerate(zip(layers, fronts, strict=True)):
        costs = np.ceil(layer.cost[front] / unit).astype(np.int64)
        menus.append(Menu(place, place + 1, costs, -scale[place] * layer.error[front]))
    found = best_path(menus, int(budget / unit), tolerance=GAP * worst)
    return [int(fronts[choice.start][choice.option]) for choice in found.choices]


def spend(layers: Sequence[Options], chosen: Sequence[int], budget: float) -> list[int]:
    """Return the choice after what it leaves of the budget went where it lowers errors most.

    Each step takes the option that fits and lowers its layer's error most per unit of cost, so no
    error ever rises.
    """
    chosen = list(chosen)
    left = budget * (1 + SLACK) - cost_of(layers, chosen)
    steps = [_next(layer, option, left) for layer, option in zip(layers, chosen, strict=True)]
    while steps and (best := max(range(len(steps)), key=lambda place: steps[place][0])) >= 0:
        if steps[best][0] <= 0:
            break
        old, chosen[best] = chosen[best], steps[best][1]
        left -= layers[best].cost[chosen[best]] - layers[best].cost[old]
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
    """Return how much error per unit of cost the best step within `left` saves, and its option."""
    more = layer.cost - layer.cost[option]
    less = layer.error[option] - layer.error
    fits = (more <= left) & (less > 0)
    rate = np.where(fits, less, 0.0) / np.maximum(more, FREE)
    best = int(rate.argmax())
    return float(rate[best]), best


def _checked(layers: Sequence[Options], fronts: Sequence[np.ndarray], budget: float) -> float:
    """Return the budget with room for rounding, where the cheapest options fit into it."""
    least = cost_of(layers, [front[0] for front in fronts])
    if not least <= budget * (1 + SLACK):
        raise LowRankError(
            f"a budget of {budget:.12g} is below {least:.12g}, the least that the layers can keep; "
            "lower the compression"
        )
    return budget * (1 + SLACK)


def _largest(levels, at, layers, fronts, budget) -> list[int]:  # type: ignore[no-untyped-def]
    """Return the places on the fronts at the largest of the rising `levels` that fits."""

    def total(places: list[int]) -> float:
        """Return what these places on the fronts cost together."""
        taken = [front[place] for front, place in zip(fronts, places, strict=True)]
        return cost_of(layers, taken)

    low, high = -1, len(levels)  # the level at `low` fits, the one at `high` does not
    while high - low > 1:
        middle = (low + high) // 2
        if total(at(levels[middle])) <= budget:
            low = middle
        else:
            high = middle
    return at(levels[low]) if low >= 0 else [0] * len(fronts)


def _unit(costs: Sequence[np.ndarray], budget: float) -> float:
    """Return 1 for costs that are whole numbers, else a small share of the budget."""
    if all((cost == np.rint(cost)).all() for cost in costs):
        return 1.0
    return ldexp(1.0, int(np.floor(log2(budget))) - BITS)
