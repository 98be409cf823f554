"""The exact division of a budget: which cuts, and how much each block between them may keep.

A menu lists what a block may keep: for each option what it costs and what it gains. Taking one
option from each menu is the multiple-choice knapsack problem; where the cuts between the blocks
are free as well, it is a longest path with a limited resource. Both are solved here by one
algorithm: the Lagrangian bound, then labels that this bound cannot exclude.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from lowrank_bench.errors import LowRankError

# Labels kept at a cut; beyond it the least promising go, and the answer's `bound` says so.
MOST_LABELS = 20_000


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
        What each option is worth, m float64.
    """

    start: int
    stop: int
    costs: np.ndarray
    gains: np.ndarray


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
        Their sums.
    bound
        No path within the budget gains more than this; equal to `gain` where that is an optimum.
    """

    choices: tuple[Choice, ...]
    cost: int
    gain: float
    bound: float


def allocate(costs: Sequence[np.ndarray], gains: Sequence[np.ndarray], budget: int) -> list[int]:
    """Return one option for each block, of the largest total gain within the budget.

    Parameters
    ----------
    costs, gains
        For each block the cost (int64 ≥ 0) and the gain (float64) of each of its options.
    budget
        Largest total cost.

    Raises
    ------
    LowRankError
        When even the cheapest options cost more than the budget.
    """
    menus = [Menu(b, b + 1, *pair) for b, pair in enumerate(zip(costs, gains, strict=True))]
    return [choice.option for choice in best_path(menus, budget).choices]


def best_path(menus: Sequence[Menu], budget: int, tolerance: float = 0.0) -> Allocation:
    """Return the blocks from the first cut to the last of the largest gain within the budget.

    With multiplier λ each option is worth gain − λ·cost, and the best path is a longest path of an
    acyclic graph. The λ that gives the least upper bound is found by intersecting lines, in few
    steps. A partial path whose own gain and the best completion at that λ stay below a known
    solution is dropped, as is one that another beats in both cost and gain; what remains holds
    the optimum.

    Parameters
    ----------
    menus
        The blocks to choose from; cuts are 0..m and every block runs forward.
    budget
        Largest total cost.
    tolerance
        Accepted distance from the optimum, in units of the gain; 0 finds an optimum.

    Raises
    ------
    LowRankError
        When no path from the first cut to the last is within the budget.

    References
    ----------
    Handler and Zang, "A dual algorithm for the constrained shortest path problem", Networks 10
    (1980).
    """
    graph = _Graph(menus)
    cheapest = graph.cheapest()
    if not cheapest[0] <= budget:
        raise LowRankError(
            f"a budget of {budget} numbers is below {cheapest[0]:g}, the least that these blocks "
            "can keep; lower the compression"
        )
    multiplier, known = _dual(graph, budget)
    if known.cost == graph.path(graph.completions(0.0)[1]).cost:
        return known  # the budget does not bind
    return _Search(graph, budget, multiplier, cheapest).improve(
        _filled(graph, known, budget), tolerance
    )


class _Graph:
    """The menus by the cut they start from, and longest paths through them."""

    def __init__(self, menus: Sequence[Menu]) -> None:
        self.last = max(menu.stop for menu in menus)
        self.leaving: list[list[Menu]] = [[] for _ in range(self.last + 1)]
        for menu in menus:
            self.leaving[menu.start].append(menu)

    def cheapest(self) -> np.ndarray:
        """Return the least cost from each cut to the last."""
        least = np.full(self.last + 1, np.inf)
        least[self.last] = 0
        for cut in range(self.last - 1, -1, -1):
            for menu in self.leaving[cut]:
                least[cut] = min(least[cut], menu.costs.min() + least[menu.stop])
        return least

    def completions(self, multiplier: float) -> tuple[np.ndarray, list[Choice | None]]:
        """Return the best gain − λ·cost from each cut to the last, and the block it begins with.

        Of options that are worth the same the cheapest is taken.
        """
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
        """Return the path that begins at the first cut."""
        choices, cut = [], 0
        while cut < self.last:
            choice = first[cut]
            assert choice is not None
            choices.append(choice)
            cut = choice.stop
        return self.total(choices)

    def menu(self, choice: Choice) -> Menu:
        """Return the menu that a choice was made from."""
        return next(m for m in self.leaving[choice.start] if m.stop == choice.stop)

    def total(self, choices: Sequence[Choice]) -> Allocation:
        """Return the choices with the sums of their costs and gains."""
        cost, gain = 0, 0.0
        for choice in choices:
            menu = self.menu(choice)
            cost += int(menu.costs[choice.option])
            gain += float(menu.gains[choice.option])
        return Allocation(tuple(choices), cost, gain, gain)


def _dual(graph: _Graph, budget: int) -> tuple[float, Allocation]:
    """Return the multiplier of the least upper bound, and a path within the budget."""
    dear = graph.path(graph.completions(0.0)[1])
    if dear.cost <= budget:
        return 0.0, dear
    steep = 1 + 2 * sum(float(np.abs(m.gains).max()) for part in graph.leaving for m in part)
    cheap = graph.path(graph.completions(steep)[1])
    while True:
        multiplier = (dear.gain - cheap.gain) / (dear.cost - cheap.cost)
        value, first = graph.completions(multiplier)
        line = cheap.gain - multiplier * cheap.cost
        path = graph.path(first)
        if value[0] <= line + 1e-12 * abs(line) or path.cost in (cheap.cost, dear.cost):
            return multiplier, cheap
        cheap, dear = (path, dear) if path.cost <= budget else (cheap, path)


def _filled(graph: _Graph, known: Allocation, budget: int) -> Allocation:
    """Spend what is left, always on the larger option that gains most for what it adds."""
    while True:
        best, pick = 0.0, None
        for place, choice in enumerate(known.choices):
            menu = graph.menu(choice)
            more = menu.costs - menu.costs[choice.option]
            extra = menu.gains - menu.gains[choice.option]
            fits = (more <= budget - known.cost) & (extra > 0)
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

    costs: np.ndarray
    gains: np.ndarray
    parents: np.ndarray  # which label of the block's start
    starts: np.ndarray  # that start
    options: np.ndarray

    def take(self, kept: np.ndarray) -> "_Labels":
        """Return the labels at the places `kept`."""
        return _Labels(*(getattr(self, field.name)[kept] for field in fields(self)))


class _Search:
    """Labels cut by cut, without those that the bound or another label excludes."""

    def __init__(self, graph: _Graph, budget: int, multiplier: float, cheapest: np.ndarray) -> None:
        self.graph, self.budget, self.multiplier = graph, budget, multiplier
        self.cheapest = cheapest
        self.value = graph.completions(multiplier)[0]
        self.dropped = -np.inf

    def improve(self, known: Allocation, tolerance: float) -> Allocation:
        """Return the best path, or `known` where none gains more than `tolerance` above it."""
        least = known.gain + max(tolerance, 1e-12 * abs(known.gain))
        zero = np.zeros(1, dtype=np.int64)
        labels = [_Labels(zero, np.zeros(1), zero, zero, zero)]
        for cut in range(1, self.graph.last + 1):
            labels.append(self._arrive(cut, labels, least))
        end, found = labels[-1], known
        if len(end.costs) and end.gains.max() > known.gain:
            found = self.graph.total(self._trace(labels, int(end.gains.argmax())))
        open_bound = min(least, self.value[0] + self.multiplier * self.budget)
        bound = max(found.gain, self.dropped, open_bound if tolerance else found.gain)
        return replace(found, bound=bound)

    def _arrive(self, cut: int, labels: list[_Labels], least: float) -> _Labels:
        """Return the labels of `cut`, from those of the cuts before it."""
        parts = []
        for start in range(cut):
            for menu in self.graph.leaving[start]:
                if menu.stop == cut:
                    parts.append(self._extend(labels[start], menu, least))
        if not parts:
            return labels[0].take(np.zeros(0, dtype=np.int64))
        merged = _Labels(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        return self._thin(merged, cut)

    def _extend(self, before: _Labels, menu: Menu, least: float) -> tuple[np.ndarray, ...]:
        """Return each label with each option, where it may still lead above `least`."""
        cost = before.costs[:, None] + menu.costs
        gain = before.gains[:, None] + menu.gains
        bound = gain + self.multiplier * (self.budget - cost) + self.value[menu.stop]
        fits = cost + self.cheapest[menu.stop] <= self.budget
        parent, option = np.nonzero(fits & (bound > least))
        start = np.full(len(parent), menu.start)
        return cost[parent, option], gain[parent, option], parent, start, option

    def _thin(self, labels: _Labels, cut: int) -> _Labels:
        """Drop labels that a cheaper one matches in gain; then the least promising of too many."""
        order = np.lexsort((-labels.gains, labels.costs))
        gains = labels.gains[order]
        before = np.concatenate([[-np.inf], np.maximum.accumulate(gains)[:-1]])
        labels = labels.take(order[gains > before])
        if len(labels.costs) <= MOST_LABELS:
            return labels
        worth = labels.gains - self.multiplier * labels.costs
        bound = worth + self.multiplier * self.budget + self.value[cut]
        order = np.argsort(-bound, kind="stable")
        self.dropped = max(self.dropped, float(bound[order[MOST_LABELS]]))
        return labels.take(np.sort(order[:MOST_LABELS]))

    def _trace(self, labels: list[_Labels], index: int) -> list[Choice]:
        """Return the blocks that led to a label of the last cut."""
        choices, cut = [], self.graph.last
        while cut > 0:
            here = labels[cut]
            start = int(here.starts[index])
            choices.append(Choice(start, cut, int(here.options[index])))
            index, cut = int(here.parents[index]), start
        return choices[::-1]
