"""The global step of ALDS: how each layer is cut, and at which rank, under one budget.

`exact` solves min max_l error_l s.t. Σ_l cost_l ≤ budget. The layers share the budget alone, so at
a given level of error each takes its cheapest cut and rank; the optimum is the least level that
fits. `em` is the search that was published for it, from random starts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter

import numpy as np

from lowrank_bench.alds.curves import Curve
from lowrank_bench.errors import LowRankError
from lowrank_bench.network.allocate import SLACK, Options, energy, least_sum, spend
from lowrank_bench.network.allocate import uniform as uniform_options

WIDE = 0.01  # of a level; while more is open, its middle alone is looked at
SEEDS = 15
ALTERNATIONS = 4
FIXED = (3, 5, 7, 9)  # numbers of groups that the first seeds start from


@dataclass(frozen=True, eq=False)
class Cut:
    """One way to cut a layer: a folding scheme and a number of groups, at any of its ranks.

    Attributes
    ----------
    scheme, groups
        Which.
    ranks
        int64 m, rising: the ranks that pay.
    costs
        float64 m, rising: the cost at each rank.
    curve
        The m errors.
    """

    scheme: int
    groups: int
    ranks: np.ndarray
    costs: np.ndarray
    curve: Curve

    def within(self, cost: float) -> int:
        """Return the index of the largest rank that costs at most `cost`; −1 where none does."""
        return int(np.searchsorted(self.costs, cost * (1 + SLACK), "right")) - 1


@dataclass(frozen=True)
class Choice:
    """A cut at one of its ranks; without a cut the layer stays dense."""

    cost: float
    cut: Cut | None = None
    index: int = 0

    @property
    def error(self) -> float:
        """Return the error, 0 for a dense layer."""
        return 0.0 if self.cut is None else self.cut.curve.at(self.index)

    @property
    def rank(self) -> int | None:
        """Return the rank, None for a dense layer."""
        return None if self.cut is None else int(self.cut.ranks[self.index])


@dataclass(frozen=True, eq=False)
class Candidates:
    """What one layer can become.

    Attributes
    ----------
    dense
        Cost of leaving it as it is.
    cuts
        The ways to cut it; none where no rank pays.
    """

    dense: float
    cuts: list[Cut] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cuts[:] = [cut for cut in self.cuts if len(cut.ranks)]

    def choice(self, option: int) -> Choice:
        """Return an option by its place in `options`."""
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
        """Return cuts, ranks and last the dense layer, with the `low` or `high` of the curves."""
        costs = [*(cut.costs for cut in self.cuts), [self.dense]]
        errors = [*(getattr(cut.curve, bound) for cut in self.cuts), [0.0]]
        return Options(np.concatenate(costs), np.concatenate(errors))

    def learn(self, choice: Choice, left: float) -> None:
        """Compute the errors of all options that cost at most `left` more and may be better."""
        for cut in self.cuts:
            first = int(np.searchsorted(cut.costs, choice.cost))
            first = max(first, cut.curve.optimistic(np.nextafter(choice.error, 0)))
            for index in range(cut.within(choice.cost + left), first - 1, -1):
                cut.curve.at(index)

    def cheapest(self, level: float) -> Choice:
        """Return the cheapest choice whose error is at most `level`.

        Cuts are asked in the order of what they may cost, until none can be cheaper. Of equal ones
        the dense layer is first, then the first cut.
        """
        best = (self.dense, -1, Choice(self.dense))
        hopes = []
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
    """Return the choice of the least largest error within the budget, then spend what is left.

    Errors are known between bounds until they are asked for. The least level for which the lower
    bounds fit the budget is at most the optimum; when the errors there, computed, still fit, it is
    the optimum. Otherwise they raised the bounds; the middle between the levels of the lower and
    the upper bounds is looked at too, which halves what is open.

    The result does not depend on which errors had been computed before, for another budget say:
    what is left goes by errors, not by bounds.

    Raises
    ------
    LowRankError
        When the budget is below the smallest that is reachable.
    """
    while True:
        low, high = (_level(layers, budget, bound) for bound in ("low", "high"))
        wide = np.isfinite(high) and high - low > WIDE * high
        if not wide:
            found = [layer.cheapest(low) for layer in layers]
            if sum(choice.cost for choice in found) <= budget * (1 + SLACK):
                break
        for layer in layers:
            layer.cheapest((low + high) / 2 if np.isfinite(high) else low)
    left = budget * (1 + SLACK) - sum(choice.cost for choice in found)
    for layer, choice in zip(layers, found, strict=True):
        layer.learn(choice, left)
    options = [layer.options("high") for layer in layers]
    places = [layer.place(choice) for layer, choice in zip(layers, found, strict=True)]
    spent = spend(options, places, budget)
    return [layer.choice(option) for layer, option in zip(layers, spent, strict=True)]


def _level(layers: Sequence[Candidates], budget: float, bound: str) -> float:
    """Return the least level at which choices fit the budget, with the bounds for errors."""
    options = [layer.options(bound) for layer in layers]
    chosen = energy(options, budget)
    return max(layer.error[option] for layer, option in zip(options, chosen, strict=True))


def least_total(layers: Sequence[Candidates], budget: float) -> list[Choice]:
    """Return the choice of the least sum of squared errors within the budget (`least_sum`)."""
    options = []
    for layer in layers:
        for cut in layer.cuts:
            cut.curve.all()
        known = layer.options("high")
        options.append(Options(known.cost, known.error**2))
    found = least_sum(options, budget)
    return [layer.choice(option) for layer, option in zip(layers, found, strict=True)]


def uniform(layers: Sequence[Candidates], budget: float) -> list[Choice]:
    """Return for each layer the best cut, at the rank that the same share of its cost allows.

    The cut is the best at the share that the budget is of all dense costs; the share is then the
    largest that fits.

    Raises
    ------
    LowRankError
        When the budget is below the smallest that is reachable.
    """
    share = budget / sum(layer.dense for layer in layers)
    chosen = [replace(layer, cuts=_best_cut(layer, share * layer.dense)) for layer in layers]
    options = []
    for layer in chosen:
        cost = layer.options("low").cost
        options.append(Options(cost, cost.max() - cost))  # of one cut, dearer is better
    found = uniform_options(options, budget)
    return [layer.choice(option) for layer, option in zip(chosen, found, strict=True)]


def _best_cut(layer: Candidates, cost: float) -> list[Cut]:
    places = [(cut, cut.within(cost)) for cut in layer.cuts]
    fitting = [
        (cut.curve.at(index), cut.groups, n) for n, (cut, index) in enumerate(places) if index >= 0
    ]
    if fitting:
        return [layer.cuts[min(fitting)[2]]]
    return sorted(layer.cuts, key=lambda cut: cut.costs[0])[:1]


def em(layers: Sequence[Candidates], budget: float, seed: int) -> list[Choice]:
    """Return the best of 15 random starts of the published alternation (Algorithm 1).

    Each start fixes a cut for each layer, nearest to 3, 5, 7 or 9 groups in the first four and
    drawn at random in the others. Four times, the ranks are chosen for these cuts so that the
    largest error is least, and then each layer takes the cut with the least error for what it
    costs.

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
        for _ in range(ALTERNATIONS):
            cuts, found = _ranks(layers, cuts, budget)
            if best is None or _worst(found) < _worst(best):
                best = found
            cuts = [
                _best_cut(layer, choice.cost) or cut
                for layer, choice, cut in zip(layers, found, cuts, strict=True)
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
    """Return the best ranks for these cuts; where none fit, for fewer groups everywhere."""
    while True:
        fixed = [replace(layer, cuts=cut) for layer, cut in zip(layers, cuts, strict=True)]
        try:
            low = exact(fixed, budget)
        except LowRankError:
            fewer = [_fewer(layer, cut) for layer, cut in zip(layers, cuts, strict=True)]
            if fewer == cuts:
                raise
            cuts = fewer
        else:
            return cuts, low


def _fewer(layer: Candidates, cut: list[Cut]) -> list[Cut]:
    """Return the cut with at most half as many groups that has the most."""
    smaller = [other for other in layer.cuts if cut and 2 * other.groups <= cut[0].groups]
    return [max(smaller, key=lambda other: other.groups)] if smaller else cut
