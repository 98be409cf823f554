"""The global step of ALDS: how each layer is cut, and at which rank, under one budget.

`exact` solves min max_l error_l s.t. Σ_l cost_l ≤ budget. Only the budget couples the layers, so at
a given level of error each takes its cheapest cut and rank; the optimum is the least level that
fits. `em` is the published search for it, from random starts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from lowrank_bench.alds.curves import Curve, Floats
from lowrank_bench.errors import LowRankError
from lowrank_bench.network.allocate import SLACK, Options, energy, least_sum, spend
from lowrank_bench.network.allocate import uniform as uniform_options

WIDE = 0.01  # relative; a wider interval of levels is only bisected
SEEDS = 15
ALTERNATIONS = 4
FIXED = (3, 5, 7, 9)  # numbers of groups of the first starts


@dataclass(frozen=True, eq=False)
class Cut:
    """One way to cut a layer: a folding scheme and a number of groups, at any of its ranks.

    Attributes
    ----------
    scheme, groups
        Folding scheme and number of groups.
    ranks
        int64 m, rising: the ranks that cost less than the dense layer.
    costs
        float64 m, rising: the cost at each rank.
    curve
        The m errors.
    """

    scheme: int
    groups: int
    ranks: NDArray[np.int64]
    costs: Floats
    curve: Curve

    def within(self, cost: float) -> int:
        """Return the index of the largest rank that costs at most `cost`; −1 if there is none."""
        return int(np.searchsorted(self.costs, cost * (1 + SLACK), "right")) - 1


@dataclass(frozen=True)
class Choice:
    """A cut and one of its ranks; without a cut the layer stays dense."""

    cost: float
    cut: Cut | None = None
    index: int = 0

    @property
    def error(self) -> float:
        """Return the error; 0 for a dense layer."""
        return 0.0 if self.cut is None else self.cut.curve.at(self.index)

    @property
    def rank(self) -> int | None:
        """Return the rank; None for a dense layer."""
        return None if self.cut is None else int(self.cut.ranks[self.index])


@dataclass(frozen=True, eq=False)
class Candidates:
    """The options of one layer.

    Attributes
    ----------
    dense
        Cost of the dense layer.
    cuts
        The ways to cut it; those without any rank that costs less than the dense layer are dropped.
    """

    dense: float
    cuts: list[Cut] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cuts[:] = [cut for cut in self.cuts if len(cut.ranks)]

    @property
    def least(self) -> float:
        """Return the least cost: of the cheapest cut, or of the dense layer."""
        return min([self.dense, *(float(cut.costs[0]) for cut in self.cuts)])

    def choice(self, option: int) -> Choice:
        """Return the choice at a place in `options`."""
        for cut in self.cuts:
            if option < len(cut.ranks):
                return Choice(float(cut.costs[option]), cut, option)
            option -= len(cut.ranks)
        return Choice(self.dense)

    def place(self, choice: Choice) -> int:
        """Return the place of a choice in `options`."""
        before = 0
        for cut in self.cuts:
            if cut is choice.cut:
                return before + choice.index
            before += len(cut.ranks)
        return before

    def options(self, bound: str) -> Options:
        """Return all cuts at all ranks, then the dense layer, with the `low` or `high` bounds."""
        costs: list[Floats] = [*(cut.costs for cut in self.cuts), np.array([self.dense])]
        errors: list[Floats] = [*(getattr(cut.curve, bound) for cut in self.cuts), np.zeros(1)]
        return Options(np.concatenate(costs), np.concatenate(errors))

    def learn(self, choice: Choice, left: float) -> None:
        """Compute the errors of all options that cost at most `left` more and may be better.

        Others cannot matter when `left` is spent.
        """
        for cut in self.cuts:
            first = int(np.searchsorted(cut.costs, choice.cost))
            first = max(first, cut.curve.optimistic(np.nextafter(choice.error, 0)))
            for index in range(cut.within(choice.cost + left), first - 1, -1):
                cut.curve.at(index)

    def cheapest(self, level: float) -> Choice:
        """Return the cheapest choice whose error is at most `level`.

        Cuts are queried in the order of their least possible cost, until none can be cheaper. At
        equal cost the dense layer is preferred, then the first cut.
        """
        best = (self.dense, -1, Choice(self.dense))
        hopes = []  # the cost of each cut if its errors are as small as the bounds allow
        for place, cut in enumerate(self.cuts):
            index = cut.curve.optimistic(level)
            if index < len(cut.ranks):
                hopes.append((float(cut.costs[index]), place))
        for hope, place in sorted(hopes):
            if (hope, place) >= best[:2]:
                continue
            cut = self.cuts[place]
            index = cut.curve.first(level)
            if index < len(cut.ranks):
                cost = float(cut.costs[index])
                best = min(best, (cost, place, Choice(cost, cut, index)), key=itemgetter(0, 1))
        return best[2]


def exact(layers: Sequence[Candidates], budget: float) -> list[Choice]:
    """Return the choice whose largest error within the budget is least, then spend what is left.

    Errors are only bounded until they are computed. The least level at which the lower bounds fit
    the budget is at most the optimum. If the computed errors at that level still fit, it is the
    optimum. If not, computing them has raised the bounds. While the interval between the levels of
    lower and upper bounds is wide, its middle is queried instead, which halves it.

    The result does not depend on which errors were computed before, say for another budget: the
    rest of the budget is spent by errors, not by bounds.

    Raises
    ------
    LowRankError
        When the budget is below the smallest that is reachable.
    """
    while True:
        low, high = (_level(layers, budget, bound) for bound in ("low", "high"))
        # No upper bound may fit yet; then only the lower level can be queried.
        wide = np.isfinite(high) and high - low > WIDE * high
        if not wide:
            chosen = [layer.cheapest(low) for layer in layers]
            if sum(choice.cost for choice in chosen) <= budget * (1 + SLACK):
                break
        # A query computes the errors that decide it, which narrows the interval.
        for layer in layers:
            layer.cheapest((low + high) / 2 if np.isfinite(high) else low)
    # Compute what the rest of the budget could buy, so that bounds decide nothing.
    left = budget * (1 + SLACK) - sum(choice.cost for choice in chosen)
    for layer, choice in zip(layers, chosen, strict=True):
        layer.learn(choice, left)
    options = [layer.options("high") for layer in layers]
    places = [layer.place(choice) for layer, choice in zip(layers, chosen, strict=True)]
    spent = spend(options, places, budget)
    return [layer.choice(option) for layer, option in zip(layers, spent, strict=True)]


def _level(layers: Sequence[Candidates], budget: float, bound: str) -> float:
    """Return the least level at which choices fit the budget, with the bounds as errors."""
    options = [layer.options(bound) for layer in layers]
    chosen = energy(options, budget)
    return float(max(layer.error[option] for layer, option in zip(options, chosen, strict=True)))


def least_total(layers: Sequence[Candidates], budget: float) -> list[Choice]:
    """Return the choice whose sum of squared errors within the budget is least (`least_sum`)."""
    options = []
    for layer in layers:
        for cut in layer.cuts:
            cut.curve.all()
        known = layer.options("high")
        options.append(Options(known.cost, known.error**2))
    chosen = least_sum(options, budget)
    return [layer.choice(option) for layer, option in zip(layers, chosen, strict=True)]


def filled(
    layers: Sequence[Candidates], chosen: Sequence[Choice], budget: float
) -> tuple[list[Choice], list[int]]:
    """Return the choice after ranks that cost no error have used up the budget, and who got some.

    Data that are too few reach fewer directions than fit the budget. A rank beyond them lowers no
    error that can be seen, so that the search saves it, and the network saves more than asked.
    Where some error is left, the search has spent the budget and nothing changes here.
    """
    if any(choice.error > 0 for choice in chosen):
        return list(chosen), []
    options = []
    for layer, choice in zip(layers, chosen, strict=True):
        known = layer.options("high")
        # Convex in the share that is missing, so that the layers rise together.
        missing = np.maximum(1 - known.cost / layer.dense, 0) ** 2
        worse = known.error > choice.error
        options.append(Options(known.cost, np.where(worse, np.inf, missing)))
    places = [layer.place(choice) for layer, choice in zip(layers, chosen, strict=True)]
    spent = spend(options, places, budget)
    raised = [place for place, index in enumerate(places) if spent[place] != index]
    return [layer.choice(option) for layer, option in zip(layers, spent, strict=True)], raised


def uniform(layers: Sequence[Candidates], budget: float) -> list[Choice]:
    """Return for each layer the best cut, at the rank that a common share of its cost allows.

    The cut is the best one if each layer keeps the budget's share of its dense cost. The common
    share is then the largest that fits the budget.

    Raises
    ------
    LowRankError
        When the budget is below the smallest that is reachable.
    """
    share = budget / sum(layer.dense for layer in layers)
    fixed = [replace(layer, cuts=_best_cut(layer, share * layer.dense)) for layer in layers]
    options = []
    for layer in fixed:
        cost = layer.options("low").cost
        options.append(Options(cost, cost.max() - cost))  # within one cut, dearer is better
    chosen = uniform_options(options, budget)
    return [layer.choice(option) for layer, option in zip(fixed, chosen, strict=True)]


def _best_cut(layer: Candidates, cost: float) -> list[Cut]:
    """Return the cut with the least error at this cost; the cheapest cut if none fits."""
    places = [(cut, cut.within(cost)) for cut in layer.cuts]
    fitting = [
        (cut.curve.at(index), cut.groups, n) for n, (cut, index) in enumerate(places) if index >= 0
    ]
    if fitting:
        return [layer.cuts[min(fitting)[2]]]
    return sorted(layer.cuts, key=lambda cut: cut.costs[0])[:1]


def em(layers: Sequence[Candidates], budget: float, seed: int) -> list[Choice]:
    """Return the best of 15 random starts of the published alternation (Algorithm 1).

    Each start fixes a cut for each layer: the one nearest to 3, 5, 7 or 9 groups in the first four
    starts, a random one in the others. Two steps then alternate four times: choose the ranks of
    these cuts such that the largest error is least, and give each layer the cut with the least
    error at its current cost.

    Raises
    ------
    LowRankError
        When the budget is below the smallest that is reachable from every start.

    References
    ----------
    Liebenwein et al., "Compressing Neural Networks: Towards Determining the Optimal Layer-wise
    Decomposition", NeurIPS 2021, Algorithm 1.
    """
    rng = np.random.default_rng(seed)
    best: list[Choice] | None = None
    for start in range(SEEDS):
        cuts = [_start(layer, start, rng) for layer in layers]
        # The best choice may come before the last step: alternating is not monotone.
        for _ in range(ALTERNATIONS):
            cuts, chosen = _ranks(layers, cuts, budget)
            if best is None or _worst(chosen) < _worst(best):
                best = chosen
            cuts = [
                _best_cut(layer, choice.cost) or cut
                for layer, choice, cut in zip(layers, chosen, cuts, strict=True)
            ]
    assert best is not None
    return best


def _worst(choices: Sequence[Choice]) -> float:
    return max(choice.error for choice in choices)


def _start(layer: Candidates, start: int, rng: np.random.Generator) -> list[Cut]:
    if not layer.cuts:
        return []
    if start < len(FIXED):
        wanted = FIXED[start]
        return [min(layer.cuts, key=lambda cut: (abs(cut.groups - wanted), -cut.groups))]
    return [layer.cuts[rng.integers(len(layer.cuts))]]


def _ranks(
    layers: Sequence[Candidates], cuts: list[list[Cut]], budget: float
) -> tuple[list[list[Cut]], list[Choice]]:
    """Return the cuts and their best ranks; if none fit, cuts with fewer groups in all layers."""
    while True:
        fixed = [replace(layer, cuts=cut) for layer, cut in zip(layers, cuts, strict=True)]
        try:
            chosen = exact(fixed, budget)
        except LowRankError:
            fewer = [_fewer(layer, cut) for layer, cut in zip(layers, cuts, strict=True)]
            if fewer == cuts:
                raise
            cuts = fewer
        else:
            return cuts, chosen


def _fewer(layer: Candidates, cut: list[Cut]) -> list[Cut]:
    """Return the cut with the most groups among those with at most half as many."""
    smaller = [other for other in layer.cuts if cut and 2 * other.groups <= cut[0].groups]
    return [max(smaller, key=lambda other: other.groups)] if smaller else cut
