"""ALDS: its errors against the definitions, its search against all allocations, its networks."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowrank_bench.alds.curves import Curve
from lowrank_bench.alds.cuts import Costs, Cuts, candidates_of
from lowrank_bench.alds.errors import ERRORS, Residual
from lowrank_bench.alds.recent import Recent, bytes_in
from lowrank_bench.alds.search import em, exact
from lowrank_bench.alds.slices import RECENT, Slices
from lowrank_bench.alds.whitened import Whitened, shrunk
from lowrank_bench.layers.fold import fold, unfold, weights_per_rank

pytestmark = pytest.mark.usefixtures("one_thread")


def weight(shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def truncated(values, scheme, groups, rank):
    """The weight with each slice's SVD truncated."""
    u, s, vh = torch.linalg.svd(fold(values, scheme, groups), full_matrices=False)
    return u[..., :rank] * s[:, None, :rank] @ vh[:, :rank], s


def naive(error, values, scheme, groups, rank):
    """An error by its definition, from the dense matrices."""
    product, s = truncated(values, scheme, groups, rank)
    whole = fold(values, scheme)[0]
    lost = whole - fold(unfold(product, tuple(values.shape), scheme), scheme)[0]
    norm = torch.linalg.matrix_norm(whole, 2)
    if error == "spectral":
        return float(torch.linalg.matrix_norm(lost, 2) / norm)
    if error == "frobenius":
        return float(lost.norm() / whole.norm())
    first = s[:, rank].max() if rank < s.shape[1] else 0.0
    return float(first / norm) * (groups**0.5 if error == "bound" else 1)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("scheme", [0, 1, 2, 3])
@pytest.mark.parametrize(
    "shape", [(8, 12, 3, 3), (30, 4, 2, 3), (24, 4, 2, 3), (40, 12), (12, 12), (5, 16, 1, 1)]
)
@pytest.mark.parametrize("room", [0, 2**30])
def test_errors_are_as_defined(error, scheme, shape, room, monkeypatch):
    monkeypatch.setattr(RECENT, "room", room)
    values = weight(shape).reshape(*shape, *[1] * (4 - len(shape)))
    slices = Slices(values, scheme)
    for groups in slices.groups:
        ranks = np.arange(1, slices.ranks(groups) + 1)
        curve = ERRORS[error](slices, groups, ranks)
        expected = [naive(error, values, scheme, groups, int(rank)) for rank in ranks]
        assert (curve.low <= np.array(expected) + 1e-6).all()
        assert (np.array(expected) <= curve.high + 1e-6).all()
        found = [curve.at(index) for index in np.random.default_rng(0).permutation(len(ranks))]
        order = np.random.default_rng(0).permutation(len(ranks))
        np.testing.assert_allclose(found, np.array(expected)[order], atol=1e-6)


@pytest.mark.parametrize("kind", ["zero rows", "repeated rows", "low rank"])
@pytest.mark.parametrize("shape", [(60, 12), (12, 60), (24, 24)])
def test_errors_of_a_low_rank_weight_are_as_defined_at_every_rank(kind, shape):
    values = weight(shape)
    if kind == "zero rows":
        values[5:] = 0
    elif kind == "repeated rows":
        values = values[torch.arange(len(values)) % 5]
    else:
        values = weight((shape[0], 3)) @ weight((3, shape[1]), 1)
    values = values[..., None, None]
    for groups in (2, 3, 4):
        slices = Slices(values)
        ranks = np.arange(slices.ranks(groups) + 1)
        curve = ERRORS["spectral"](slices, groups, ranks)
        found = [curve.at(int(rank)) for rank in ranks[::-1]]
        expected = [naive("spectral", values, 0, groups, int(rank)) for rank in ranks[::-1]]
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_bounds_of_a_lossless_rank_do_not_exceed_the_norm():
    for seed in range(20):
        values = weight((60, 12), seed)
        values[5:] = 0
        slices = Slices(values)
        for groups in (2, 3, 4):
            residual = Residual(slices, groups)
            for rank in range(slices.ranks(groups) + 1):
                _, below = residual.norm(rank)
                assert (below <= slices.norm * (1 + 1e-9)).all()


def test_large_results_are_cached_while_there_is_room_and_their_owner_lives():
    recent, made = Recent(room=200), []
    owners = [weight((2, 2)) for _ in range(3)]

    def get(place, size=10):
        owner = owners[place]
        return recent.get(owner, "x", lambda: made.append(place) or torch.zeros(size).double())

    first = get(0)
    assert get(0) is first
    get(1)
    assert (made, recent.used) == ([0, 1], 160)
    get(0)
    get(2)  # evicts the second, the least recently used
    get(0)
    assert (made, recent.used) == ([0, 1, 2], 160)
    get(1)
    assert made == [0, 1, 2, 1]
    del owners[1]
    assert recent.used == 80
    owners.clear()
    assert recent.used == 0
    owners.append(weight((2, 2)))
    assert len(get(0, size=100)) == 100  # larger than the room
    assert recent.used == 800
    kept = Residual(Slices(weight((8, 12, 3, 3))), 2)
    assert bytes_in(kept) >= kept.vectors.nbytes + sum(tail.nbytes for tail in kept.tails[:-1])


@pytest.mark.parametrize("error", ERRORS)
def test_long_slices_are_bounded_before_they_are_computed(error):
    values = weight((300, 8, 9, 9)) * torch.logspace(0, -2, 8).reshape(1, 8, 1, 1)
    slices = Slices(values)
    ranks = np.arange(1, 90, 8)
    for groups in (8, 4):
        ERRORS[error](slices, groups, ranks)
    curve = ERRORS[error](slices, 2, ranks)
    low, high = curve.low.copy(), curve.high.copy()
    assert (low < high).all()
    known = curve.all()
    assert (low <= known + 1e-12).all()
    assert (known <= high + 1e-12).all()
    expected = [naive(error, values, 0, 2, rank) for rank in (1, 41)]
    np.testing.assert_allclose(known[[0, 5]], expected, atol=1e-6)


@given(seed=st.integers(0, 10**6), size=st.integers(1, 30), level=st.floats(0, 1.2))
def test_a_curve_finds_the_first_rank_below_a_level_with_few_evaluations(seed, size, level):
    rng = np.random.default_rng(seed)
    errors = np.sort(rng.random(size))[::-1]
    slack = rng.random(size) * 0.1
    asked = []

    def refine(index):
        asked.append(index)
        return float(errors[index])

    curve = Curve(errors - slack, errors + slack, refine)
    below = np.flatnonzero(errors <= level)
    assert curve.first(level) == (below[0] if len(below) else size)
    assert len(asked) <= np.ceil(np.log2(size + 1))


def small_layers(seed, error="spectral", schemes=(0,)):
    rng = np.random.default_rng(seed)
    layers, table = [], []
    for place in range(int(rng.integers(2, 4))):
        f, c = int(rng.choice([3, 4, 6])), int(rng.choice([2, 4]))
        values = weight((f, c, *rng.choice([(1, 1), (2, 2), (1, 3)])), seed + place)
        slices = {scheme: Slices(values, scheme) for scheme in schemes}
        layers.append(candidates_of(slices, Costs(values.numel()), Cuts(error)))
        options = [(values.numel(), 0.0)]
        for scheme in schemes:
            for groups in [k for k in range(1, c + 1) if c % k == 0]:
                unit = weights_per_rank(tuple(values.shape), scheme, groups)
                most = slices[scheme].ranks(groups)
                options += [
                    (rank * unit, naive(error, values, scheme, groups, rank))
                    for rank in range(1, most + 1)
                ]
        table.append(options)
    least = sum(min(cost for cost, _ in options) for options in table)
    dense = sum(options[0][0] for options in table)
    return layers, table, float(rng.integers(least, dense + 1))


@settings(deadline=None, max_examples=80)
@given(seed=st.integers(0, 10**6), error=st.sampled_from(sorted(ERRORS)))
def test_the_search_equals_the_best_of_all_allocations(seed, error):
    layers, table, budget = small_layers(seed, error, schemes=(0, 1) if seed % 2 else (0,))
    chosen = exact(layers, budget)
    assert sum(choice.cost for choice in chosen) <= budget
    best = min(
        max(error for _, error in options)
        for options in product(*table)
        if sum(cost for cost, _ in options) <= budget
    )
    assert max(choice.error for choice in chosen) == pytest.approx(best, abs=1e-6)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_random_starts_are_never_better_and_keep_the_budget(seed):
    layers, _, budget = small_layers(seed)
    best = max(choice.error for choice in exact(layers, budget))
    found = em(layers, budget, seed=3)
    assert sum(choice.cost for choice in found) <= budget
    assert max(choice.error for choice in found) >= best - 1e-9
    again = em(layers, budget, seed=3)
    assert [(c.cut and c.cut.groups, c.rank) for c in again] == [
        (c.cut and c.cut.groups, c.rank) for c in found
    ]


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("shape", [(6, 8, 3, 3), (20, 8, 1, 1)])
def test_the_data_error_is_the_error_of_the_outputs(groups, shape):
    values = weight(shape)
    flat = values.flatten(1)
    inputs = weight((500, flat.shape[1]), 1) @ weight((flat.shape[1],) * 2, 2)
    covariance = inputs.T @ inputs / len(inputs)
    own = Whitened(values, covariance)
    ranks = np.arange(1, min(4, flat.shape[1] // groups) + 1)
    errors = own.curve(groups, ranks).all()
    sliced = inputs.reshape(len(inputs), groups, -1)
    for rank, error in zip(ranks, errors, strict=True):
        left, right = own.factors(groups, int(rank))
        inner = torch.einsum("nki,kji->nkj", sliced, right).flatten(1)
        outputs = torch.einsum("nkj,kfj->nf", inner.reshape(len(inputs), groups, -1), left)
        dense = inputs @ flat.T
        # At full rank the jitter of the Gram matrix shows: the root of 1e-10.
        assert float((dense - outputs).norm() / dense.norm()) == pytest.approx(error, abs=2e-5)
        # Least squares on the inputs themselves finds no better decoder for these encoders.
        fitted = torch.linalg.lstsq(inner, dense).solution
        assert float((dense - inner @ fitted).norm() / dense.norm()) >= error - 2e-5
    if groups == 1:  # the optimum at this rank: Eckart-Young on the whitened weight
        square = torch.linalg.cholesky(covariance)
        s = torch.linalg.svdvals(flat @ square)
        expected = [(s[rank:].norm() / s.norm()).item() for rank in ranks]
        np.testing.assert_allclose(errors, expected, atol=1e-6)


def test_the_data_error_accepts_duplicated_inputs():
    values = weight((6, 4, 1, 1))
    half = weight((50, 2), 1)
    inputs = torch.cat([half, half], dim=1)  # both groups see the same inputs
    own = Whitened(values, inputs.T @ inputs / 50)
    left, right = own.factors(2, 2)
    product = torch.cat(list(left @ right), dim=1)
    torch.testing.assert_close(inputs @ product.T, inputs @ values.flatten(1).T, atol=1e-4, rtol=0)
    assert own.curve(2, np.arange(1, 3)).at(1) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("count", [20, 2000])
def test_the_shrinkage_equals_scikit_learns(count):
    from sklearn.covariance import OAS

    inputs = weight((count, 30), 1) @ weight((30, 30), 2)
    inputs -= inputs.mean(dim=0)
    expected = OAS(assume_centered=True).fit(inputs.numpy()).covariance_
    np.testing.assert_allclose(shrunk(inputs.T @ inputs / count, count), expected, rtol=1e-2)
