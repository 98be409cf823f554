"""The exact allocation of a budget, against all allocations of small instances."""

from itertools import combinations, pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.allocation import Menu, allocate, best_path


def menu(rng: np.random.Generator, start: int, stop: int, concave: bool) -> Menu:
    """Up to five options; concave ones resemble the ranks of one block."""
    size = int(rng.integers(1, 6))
    if concave:
        gains = np.concatenate([[0.0], np.sort(rng.exponential(size=size))[::-1].cumsum()])
        costs = int(rng.integers(1, 9)) * np.arange(size + 1)
    else:
        gains, costs = rng.normal(size=size), rng.integers(0, 30, size)
    return Menu(start, stop, costs.astype(np.int64), gains)


def paths(last: int):
    """All ways to cut 0..last into blocks."""
    for count in range(last):
        for inner in combinations(range(1, last), count):
            yield list(pairwise((0, *inner, last)))


def best_of_all(menus: dict[tuple[int, int], Menu], last: int, budget: int) -> float:
    """The largest gain over all cuts and all options, or minus infinity."""
    best = -np.inf
    for path in paths(last):
        if not all(block in menus for block in path):
            continue
        blocks = [menus[block] for block in path]
        for options in product(*(range(len(block.costs)) for block in blocks)):
            pairs = list(zip(blocks, options, strict=True))
            if sum(int(block.costs[o]) for block, o in pairs) <= budget:
                best = max(best, sum(float(block.gains[o]) for block, o in pairs))
    return best


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 9999),
    last=st.integers(1, 4),
    budget=st.integers(0, 70),
    concave=st.booleans(),
)
def test_equals_the_best_of_all_cuts_and_options(seed, last, budget, concave):
    rng = np.random.default_rng(seed)
    menus = {
        (start, stop): menu(rng, start, stop, concave)
        for start, stop in combinations(range(last + 1), 2)
    }
    expected = best_of_all(menus, last, budget)
    if expected == -np.inf:
        with pytest.raises(LowRankError, match="budget"):
            best_path(list(menus.values()), budget)
        return
    found = best_path(list(menus.values()), budget)
    chosen = [(menus[choice.start, choice.stop], choice.option) for choice in found.choices]
    assert [c.start for c in found.choices] == [0, *(c.stop for c in found.choices[:-1])]
    assert found.choices[-1].stop == last
    assert found.cost == sum(block.costs[option] for block, option in chosen) <= budget
    assert found.gain == pytest.approx(sum(b.gains[o] for b, o in chosen), abs=1e-9)
    assert found.gain == pytest.approx(expected, abs=1e-9)
    assert found.bound == pytest.approx(expected, abs=1e-9)


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 9999), blocks=st.integers(1, 5), budget=st.integers(0, 70))
def test_fixed_blocks_equal_the_best_of_all_options(seed, blocks, budget):
    rng = np.random.default_rng(seed)
    menus = [menu(rng, b, b + 1, concave=True) for b in range(blocks)]
    options = allocate([m.costs for m in menus], [m.gains for m in menus], budget)
    pairs = list(zip(menus, options, strict=True))
    assert sum(m.costs[o] for m, o in pairs) <= budget
    gain = sum(m.gains[o] for m, o in pairs)
    expected = best_of_all({(m.start, m.stop): m for m in menus}, blocks, budget)
    assert gain == pytest.approx(expected, abs=1e-9)


def test_a_larger_case_equals_the_knapsack_by_dynamic_programming():
    rng = np.random.default_rng(7)
    menus = []
    for b in range(8):
        gains = np.sort(rng.exponential(size=60) * 10 ** rng.uniform(-2, 0))[::-1]
        cost = int(rng.integers(20, 90))
        menus.append(Menu(b, b + 1, cost * np.arange(61), np.append(0, gains.cumsum())))
    budget = 4321
    table = np.zeros(budget + 1)  # best gain of the blocks so far within each budget
    for m in menus:
        new = np.full(budget + 1, -np.inf)
        for cost, gain in zip(m.costs, m.gains, strict=True):
            if cost <= budget:
                new[cost:] = np.maximum(new[cost:], table[: budget + 1 - cost] + gain)
        table = new
    found = best_path(menus, budget)
    assert found.gain == pytest.approx(table[-1], rel=1e-12)
    assert found.cost <= budget


def test_tolerance_bounds_the_distance_from_the_optimum():
    rng = np.random.default_rng(3)
    menus = {(a, b): menu(rng, a, b, concave=True) for a, b in combinations(range(5), 2)}
    expected = best_of_all(menus, 4, 25)
    found = best_path(list(menus.values()), 25, tolerance=0.5)
    assert expected - 0.5 <= found.gain <= expected + 1e-9
    assert found.bound >= expected - 1e-9
