"""The exact division of a budget: which cuts, and how much each block between them may keep.

A menu lists the options of one block, each with its cost and its gain. Taking one option from
each menu is the multiple-choice knapsack problem; if the cuts between the blocks may be chosen
too, it is a longest path problem with a limited resource. One algorithm solves both: a Lagrangian
bound first, then a label-setting search over the partial paths that the bound cannot exclude.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from lowrank_bench.errors import LowRankError

# Labels kept per cut. Beyond that the least promising are dropped, and `Allocation.bound` accounts
# for them.
MOST_LABELS = 20_000

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Menu:
    """What the block from cut `start` to cut `stop` may keep.

    Attributes
    ----------
    start, stop
        Indices of its two cuts, `start` < `stop`.
    costs
        Numbers that each option stores, m int64 ≥ 0.
    gains
        Value of each option, m float64.
    """

    start: int
    stop: int
    costs: Integers
    gains: Floats


@dataclass(frozen=True)
class Choice:
    """Option `option` of the block from cut `start` to cut `stop`."""

    start: int
    stop: int
    option: int


@dataclass(frozen=True)
class Allocation:
    """A path of blocks from the first cut to the last.

    Attributes
    ----------
    choices
        The blocks in order, each with its option.
    cost, gain
        Total cost and total gain of the choices.
    bound
        Upper bound on the gain of any path within the budget; equal to `gain` at an optimum.
    """

    choices: tuple[Choice, ...]
    cost: int
    gain: float
    bound: float


def allocate(costs: Sequence[Integers], gains: Sequence[Floats], budget: int) -> list[int]:
    """Return one option per block such that the total gain is largest within the budget.

    Parameters
    ----------
    costs, gains
        For each block, the cost (int64 ≥ 0) and the gain (float64) of each of its options.
    budget
        Largest total cost.

    Raises
    ------
    LowRankError
        If even the cheapest options cost more than the budget.
    """
    menus = [Menu(b, b + 1, *pair) for b, pair in enumerate(zip(costs, gains, strict=True))]
    return [choice.option for choice in best_path(menus, budget).choices]


def best_path(menus: Sequence[Menu], budget: int, tolerance: float = 0.0) -> Allocation:
    """Return the path of blocks from the first cut to the last with the largest gain in budget.

    With multiplier λ each option is worth gain − λ·cost, and the best path is a longest path in an
    acyclic graph. A few intersections of lines find the λ with the lowest upper bound. A partial
    path is dropped if its gain plus the best completion at that λ does not beat a known solution,
    or if another partial path is cheaper and gains more. The paths that remain contain the
    optimum.

    Parameters
    ----------
    menus
        The blocks to choose from; the cuts are 0..m, and every block ends after it starts.
    budget
        Largest total cost.
    tolerance
        Accepted distance from the optimum, in units of the gain; 0 asks for an optimum.

    Raises
    ------
    LowRankError
        If no path from the first cut to the last is within the budget, or a gain is not finite.

    References
    ----------
    Handler and Zang, "A dual algorithm for the constrained shortest path problem", Networks 10
    (1980).
    """
    if not all(np.isfinite(menu.gains).all() for menu in menus):
        raise LowRankError("the gains of a block are not finite; scale the matrix or its weights")
    graph = _Graph(menus)
    cheapest = graph.cheapest()
    if not cheapest[0] <= budget:
        raise LowRankError(
            f"a budget of {budget} numbers is below {cheapest[0]:g}, the least that these blocks "
            "can store; lower the compression"
        )
    multiplier, known = _dual(graph, budget)
    if known.cost == graph.path(graph.completions(0.0)[1]).cost:
        return known  # the best path without a budget is within it
    return _Search(graph, budget, multiplier, cheapest).improve(
        _filled(graph, known, budget), tolerance
    )


class _Graph:
    """The menus indexed by the cut they start from, and the longest paths through them."""

    def __init__(self, menus: Sequence[Menu]) -> None:
        self.last = max(menu.stop for menu in menus)
        self.leaving: list[list[Menu]] = [[] for _ in range(self.last + 1)]
        for menu in menus:
            self.leaving[menu.start].append(menu)

    def cheapest(self) -> Floats:
        """Return the least cost from each cut to the last."""
        # Cuts are in topological order, so one backward pass finds all least costs.
        least = np.full(self.last + 1, np.inf)
        least[self.last] = 0
        for cut in range(self.last - 1, -1, -1):
            for menu in self.leaving[cut]:
                least[cut] = min(least[cut], menu.costs.min() + least[menu.stop])
        return least

    def completions(self, multiplier: float) -> tuple[Floats, list[Choice | None]]:
        """Return the best gain − λ·cost from each cut to the last, and its first block.

        Among options of equal worth the first of the menu is taken.
        """
        # The same backward pass as `cheapest`, here for a longest path.
        value = np.full(self.last + 1, -np.inf)
        value[self.last] = 0
        first: list[Choice | None] = [None] * (self.last + 1)
        for cut in range(self.last - 1, -1, -1):
            for menu in self.leaving[cut]:
                worth = menu.gains - multiplier * menu.costs
                option = int(worth.argmax())
                if worth[option] + value[menu.stop] > value[cut]:
                    value[cut] = worth[option] + value[menu.stop]
                    first[cut] = Choice(cut, menu.stop, option)
        return value, first

    def path(self, first: list[Choice | None]) -> Allocation:
        """Follow the first blocks from the first cut to the last and return that path."""
        choices: list[Choice] = []
        cut = 0
        while cut < self.last:
            choice = first[cut]
            assert choice is not None
            choices.append(choice)
            cut = choice.stop
        return self.total(choices)

    def menu(self, choice: Choice) -> Menu:
        """Return the menu that contains a choice."""
        return next(m for m in self.leaving[choice.start] if m.stop == choice.stop)

    def total(self, choices: Sequence[Choice]) -> Allocation:
        """Return the choices with their total cost and total gain."""
        cost, gain = 0, 0.0
        for choice in choices:
            menu = self.menu(choice)
            cost += int(menu.costs[choice.option])
            gain += float(menu.gains[choice.option])
        return Allocation(tuple(choices), cost, gain, gain)


def _dual(graph: _Graph, budget: int) -> tuple[float, Allocation]:
    """Return the multiplier with the lowest upper bound, and a path within the budget."""
    # At λ = 0 cost does not matter: if that path fits, it is the optimum.
    dear = graph.path(graph.completions(0.0)[1])
    if dear.cost <= budget:
        return 0.0, dear
    # Costs are integers, so beyond the range of all gains λ makes the cheapest path the best.
    steep = 1 + 2 * sum(float(np.abs(m.gains).max()) for part in graph.leaving for m in part)
    cheap = graph.path(graph.completions(steep)[1])
    while True:
        # Each path is a line gain − λ·cost in λ; try the λ at which the two lines intersect.
        multiplier = (dear.gain - cheap.gain) / (dear.cost - cheap.cost)
        value, first = graph.completions(multiplier)
        line = cheap.gain - multiplier * cheap.cost
        path = graph.path(first)
        # No third line lies above the intersection: the bound is lowest at this λ.
        if value[0] <= line + 1e-12 * abs(line) or path.cost in (cheap.cost, dear.cost):
            return multiplier, cheap
        cheap, dear = (path, dear) if path.cost <= budget else (cheap, path)


def _filled(graph: _Graph, known: Allocation, budget: int) -> Allocation:
    """Spend the rest of the budget greedily, by the gain per additional cost."""
    while True:
        best, pick = 0.0, None
        for place, choice in enumerate(known.choices):
            menu = graph.menu(choice)
            # Additional cost and gain of every other option of this block.
            more = menu.costs - menu.costs[choice.option]
            extra = menu.gains - menu.gains[choice.option]
            fits = (more <= budget - known.cost) & (extra > 0)
            # Options of equal cost count half a number, which avoids a division by zero.
            rate = np.where(fits, extra / np.maximum(more, 0.5), 0.0)
            if rate.max() > best:
                best, pick = rate.max(), (place, int(rate.argmax()))
        if pick is None:
            return known
        choices = list(known.choices)
        choices[pick[0]] = replace(choices[pick[0]], option=pick[1])
        known = graph.total(choices)


@dataclass(frozen=True)
class _Labels:
    """Partial paths from the first cut to one cut, cheapest first."""

    costs: Integers
    gains: Floats
    parents: Integers  # index of the label that was extended, at the cut `starts`
    starts: Integers  # cut at which the last block starts
    options: Integers  # option of the last block

    def take(self, kept: Integers) -> "_Labels":
        """Return the labels with the indices `kept`."""
        return _Labels(*(getattr(self, field.name)[kept] for field in fields(self)))


class _Search:
    """Labels cut by cut, without those that the bound or another label excludes."""

    def __init__(self, graph: _Graph, budget: int, multiplier: float, cheapest: Floats) -> None:
        self.graph, self.budget, self.multiplier = graph, budget, multiplier
        self.cheapest = cheapest
        self.value = graph.completions(multiplier)[0]
        self.dropped = -np.inf

    def improve(self, known: Allocation, tolerance: float) -> Allocation:
        """Return the best path, or `known` if none gains more than `tolerance` above it."""
        # Gain that a path must exceed to be of interest; the slack absorbs rounding.
        least = known.gain + max(tolerance, 1e-12 * abs(known.gain))
        zero = np.zeros(1, dtype=np.int64)
        labels = [_Labels(zero, np.zeros(1), zero, zero, zero)]
        for cut in range(1, self.graph.last + 1):
            labels.append(self._arrive(cut, labels, least))
        end, best = labels[-1], known
        if len(end.costs) and end.gains.max() > known.gain:
            best = self.graph.total(self._trace(labels, int(end.gains.argmax())))
        # Excluded paths gain at most `least`, all paths at most the Lagrangian bound; labels
        # dropped for lack of space keep their own bound.
        open_bound = min(least, self.value[0] + self.multiplier * self.budget)
        bound = max(best.gain, self.dropped, open_bound if tolerance else best.gain)
        return replace(best, bound=bound)

    def _arrive(self, cut: int, labels: list[_Labels], least: float) -> _Labels:
        """Return the labels of `cut`, built from the labels of earlier cuts."""
        parts = []
        for start in range(cut):
            for menu in self.graph.leaving[start]:
                if menu.stop == cut:
                    parts.append(self._extend(labels[start], menu, least))
        if not parts:
            return labels[0].take(np.zeros(0, dtype=np.int64))
        merged = _Labels(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        return self._thin(merged, cut)

    def _extend(
        self, before: _Labels, menu: Menu, least: float
    ) -> tuple[Integers, Floats, Integers, Integers, Integers]:
        """Return each label with each option if the result may still exceed `least`."""
        cost = before.costs[:, None] + menu.costs
        gain = before.gains[:, None] + menu.gains
        # Weak duality: no completion within the budget gains more than this.
        bound = gain + self.multiplier * (self.budget - cost) + self.value[menu.stop]
        # The rest of the path must stay affordable.
        fits = cost + self.cheapest[menu.stop] <= self.budget
        parent, option = np.nonzero(fits & (bound > least))
        start = np.full(len(parent), menu.start)
        return cost[parent, option], gain[parent, option], parent, start, option

    def _thin(self, labels: _Labels, cut: int) -> _Labels:
        """Drop dominated labels, then the least promising if too many are left."""
        # In order of cost, a label is dominated unless it gains more than all cheaper ones.
        order = np.lexsort((-labels.gains, labels.costs))
        gains = labels.gains[order]
        before = np.concatenate([[-np.inf], np.maximum.accumulate(gains)[:-1]])
        labels = labels.take(order[gains > before])
        if len(labels.costs) <= MOST_LABELS:
            return labels
        worth = labels.gains - self.multiplier * labels.costs
        bound = worth + self.multiplier * self.budget + self.value[cut]
        # Keep the labels with the highest bounds, and record the best bound that is lost.
        order = np.argsort(-bound, kind="stable")
        self.dropped = max(self.dropped, float(bound[order[MOST_LABELS]]))
        return labels.take(np.sort(order[:MOST_LABELS]))

    def _trace(self, labels: list[_Labels], index: int) -> list[Choice]:
        """Return the blocks that lead to a label of the last cut."""
        choices: list[Choice] = []
        cut = self.graph.last
        while cut > 0:
            here = labels[cut]
            start = int(here.starts[index])
            choices.append(Choice(start, cut, int(here.options[index])))
            index, cut = int(here.parents[index]), start
        return choices[::-1]
