"""The exact division of bytes over layers, against all choices of tiny problems."""

from itertools import product

import numpy as np
import pytest

from lowrank_bench.errors import LowRankError
from lowrank_bench.network.allocate import Options
from lowrank_bench.network.knapsack import divide, lp_bound


def random_layers(rng):
    """Return two to five layers of up to five options, with ties, zeros and dominated ones."""
    layers = []
    for _ in range(rng.integers(2, 6)):
        count = rng.integers(1, 6)
        cost = rng.integers(0, 30, count).astype(float)
        error = rng.integers(0, 6, count) * 10.0 ** rng.integers(-3, 2)
        layers.append(Options(cost, error.astype(float)))
    return layers


def all_choices(layers):
    for choice in product(*(range(len(layer.cost)) for layer in layers)):
        pairs = list(zip(layers, choice, strict=True))
        yield sum(one.cost[i] for one, i in pairs), sum(one.error[i] for one, i in pairs)


@pytest.mark.parametrize("seed", range(25))
def test_a_division_is_the_best_of_all_and_bounds_hold(seed):
    rng = np.random.default_rng(seed)
    for _ in range(12):
        layers = random_layers(rng)
        budget = float(rng.integers(0, 90))
        fitting = [error for cost, error in all_choices(layers) if cost <= budget]
        if not fitting:
            with pytest.raises(LowRankError):
                divide(layers, budget)
            continue
        division = divide(layers, budget)
        best = min(fitting)
        assert division.spent <= budget
        assert division.error == pytest.approx(best, abs=1e-12)
        assert division.bound == pytest.approx(best, abs=1e-9)
        assert division.lp_bound <= best + 1e-9
        # A division is at most one step of one layer above the linear program's.
        step = max(float(layer.error.max() - layer.error.min()) for layer in layers)
        assert best <= lp_bound(layers, budget) + step + 1e-9


def test_the_linear_program_against_scipy():
    linprog = pytest.importorskip("scipy.optimize").linprog
    rng = np.random.default_rng(3)
    for _ in range(40):
        layers, budget = random_layers(rng), float(rng.integers(20, 90))
        sizes = [len(layer.cost) for layer in layers]
        one_each = np.zeros((len(layers), sum(sizes)))
        for row, stop in enumerate(np.cumsum(sizes)):
            one_each[row, stop - sizes[row] : stop] = 1
        done = linprog(
            np.concatenate([layer.error for layer in layers]),
            np.concatenate([layer.cost for layer in layers])[None],
            [budget],
            one_each,
            np.ones(len(layers)),
        )
        if done.status == 0:
            assert lp_bound(layers, budget) == pytest.approx(done.fun, abs=1e-7)
