"""Each rule that divides a budget over layers, against all allocations of small instances."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowrank_bench.errors import LowRankError
from lowrank_bench.network.allocate import (
    GAP,
    Options,
    cost_of,
    energy,
    least_sum,
    minimax,
    pareto,
    spend,
    uniform,
)

SEEDS = st.integers(0, 10**6)


def instance(seed, whole=True):
    """Up to four layers with up to six options each, and a budget between the extremes."""
    rng = np.random.default_rng(seed)
    layers = []
    for _ in range(rng.integers(1, 5)):
        size = int(rng.integers(1, 7))
        cost = rng.integers(0, 20, size).astype(float) if whole else rng.exponential(size=size)
        # Few distinct errors, so that ties are common.
        error = rng.integers(0, 9, size) / 8 if rng.random() < 0.5 else rng.random(size)
        layers.append(Options(cost, error))
    least = sum(layer.cost.min() for layer in layers)
    most = sum(layer.cost.max() for layer in layers)
    budget = rng.uniform(least, most + 1)
    return layers, float(np.ceil(budget)) if whole else budget


def divisions(layers, budget):
    """All choices within the budget."""
    every = product(*(range(len(layer.cost)) for layer in layers))
    return [chosen for chosen in every if cost_of(layers, chosen) <= budget + 1e-9]


def worst(layers, chosen):
    return max(layer.error[option] for layer, option in zip(layers, chosen, strict=True))


def total(layers, chosen):
    return sum(layer.error[option] for layer, option in zip(layers, chosen, strict=True))


@settings(deadline=None, max_examples=300)
@given(seed=SEEDS, whole=st.booleans())
def test_minimax_equals_the_best_of_all_allocations(seed, whole):
    layers, budget = instance(seed, whole)
    chosen = minimax(layers, budget)
    assert cost_of(layers, chosen) <= budget * (1 + 1e-12)
    assert worst(layers, chosen) == min(worst(layers, c) for c in divisions(layers, budget))


@settings(deadline=None, max_examples=100)
@given(seed=SEEDS)
def test_minimax_leaves_no_budget_that_an_option_could_use(seed):
    layers, budget = instance(seed)
    chosen = minimax(layers, budget)
    left = budget - cost_of(layers, chosen)
    for layer, option in zip(layers, chosen, strict=True):
        better = layer.error < layer.error[option]
        assert not (better & (layer.cost <= layer.cost[option] + left)).any()


def test_the_remaining_budget_goes_where_it_lowers_errors_most():
    first = Options(np.array([1.0, 3.0]), np.array([0.5, 0.4]))
    second = Options(np.array([1.0, 3.0]), np.array([0.5, 0.1]))
    assert spend([first, second], [0, 0], 4) == [0, 1]
    assert spend([first, second], [0, 0], 6) == [1, 1]
    assert spend([first, second], [0, 0], 3) == [0, 0]


def test_a_step_that_costs_nothing_is_taken():
    layer = Options(np.array([1.0, 1.0]), np.array([0.5, 0.4]))
    assert spend([layer], [0], 1) == [1]


@settings(deadline=None, max_examples=200)
@given(seed=SEEDS, whole=st.booleans())
def test_the_smallest_sum_is_within_its_gap_of_the_best_of_all_allocations(seed, whole):
    layers, budget = instance(seed, whole)
    weights = np.random.default_rng(seed).uniform(0.5, 2, len(layers))
    chosen = least_sum(layers, budget, weights)
    assert cost_of(layers, chosen) <= budget * (1 + 1e-12)
    scaled = [Options(own.cost, w * own.error) for own, w in zip(layers, weights, strict=True)]
    best = min(total(scaled, c) for c in divisions(layers, budget))
    start = total(scaled, [pareto(layer)[0] for layer in scaled])
    assert best <= total(scaled, chosen) + 1e-12
    assert total(scaled, chosen) <= best + GAP * start + 1e-6 * (not whole)


@settings(deadline=None, max_examples=200)
@given(seed=SEEDS)
def test_energy_takes_the_smallest_threshold_that_fits(seed):
    layers, budget = instance(seed)
    fitting = []
    for level in np.unique(np.concatenate([layer.error for layer in layers])):
        chosen = []
        for layer in layers:
            below = np.flatnonzero(layer.error <= level)
            # A layer that cannot reach the threshold takes its smallest error.
            least = layer.error.min()
            below = below if len(below) else np.flatnonzero(layer.error == least)
            chosen.append(min(below, key=lambda option: (layer.cost[option], layer.error[option])))
        if cost_of(layers, chosen) <= budget:
            fitting.append(chosen)
    assert energy(layers, budget) == fitting[0]


@settings(deadline=None, max_examples=200)
@given(seed=SEEDS)
def test_uniform_takes_the_largest_share_that_fits(seed):
    layers, budget = instance(seed)
    dense = [layer.cost[pareto(layer)[-1]] for layer in layers]
    found = uniform(layers, budget)

    def at(share):
        chosen = []
        for layer, full in zip(layers, dense, strict=True):
            fits = layer.cost <= share * full + 1e-9
            fits |= layer.cost == layer.cost.min()
            places = np.flatnonzero(fits)
            chosen.append(min(places, key=lambda o: (layer.error[o], layer.cost[o])))
        return chosen

    # The choice changes only where another option fits the share.
    shares = {0.0}
    for layer, full in zip(layers, dense, strict=True):
        shares |= set(layer.cost / full) if full else set()
    fitting = [at(share) for share in sorted(shares) if cost_of(layers, at(share)) <= budget]
    assert found == fitting[-1]


@settings(deadline=None, max_examples=100)
@given(seed=SEEDS)
def test_the_front_holds_the_options_that_no_other_beats(seed):
    layers, _ = instance(seed)
    for layer in layers:
        front = pareto(layer)
        pairs = {(layer.cost[o], layer.error[o]) for o in front}
        every = set(zip(layer.cost, layer.error, strict=True))
        unbeaten = {
            (c, e)
            for c, e in every
            if not any((a <= c and b <= e and (a, b) != (c, e)) for a, b in every)
        }
        assert pairs == unbeaten
        assert (np.diff(layer.cost[front]) > 0).all()


@pytest.mark.parametrize("rule", [minimax, energy, uniform, least_sum])
def test_a_budget_below_the_minimum_is_refused_and_the_minimum_named(rule):
    layers = [Options(np.array([3.0, 9.0]), np.array([0.5, 0.0]))] * 2
    with pytest.raises(LowRankError, match="a budget of 5 is below 6, the least"):
        rule(layers, 5)
    assert rule(layers, 6) == [0, 0]


def test_options_that_are_not_numbers_are_refused():
    with pytest.raises(LowRankError, match="NaN"):
        Options(np.array([1.0]), np.array([np.nan]))
    with pytest.raises(LowRankError, match="one cost and one error"):
        Options(np.array([1.0, 2.0]), np.array([0.0]))
    with pytest.raises(LowRankError, match="positive numbers"):
        least_sum([Options(np.array([1.0]), np.array([0.0]))], 2, weights=[-1.0])
