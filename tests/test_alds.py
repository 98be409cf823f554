"""ALDS: its errors against the definitions, its search against all allocations, its networks."""

from itertools import product

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lowrank_bench.alds.curves import Curve
from lowrank_bench.alds.cuts import Costs, Cuts, candidates_of
from lowrank_bench.alds.errors import ERRORS, Residual
from lowrank_bench.alds.recent import Recent, bytes_in
from lowrank_bench.alds.search import em, exact
from lowrank_bench.alds.slices import RECENT, Slices
from lowrank_bench.alds.whitened import Whitened, shrunk
from lowrank_bench.errors import LowRankError
from lowrank_bench.layers.fold import fold, unfold, weights_per_rank
from lowrank_bench.methods import make_method
from lowrank_bench.network.compress import compress_within
from lowrank_bench.network.problem import NetworkProblem


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.strided = nn.Conv2d(16, 24, 3, stride=2, padding=1, bias=False)
        self.wide = nn.Conv2d(24, 24, (3, 5), padding=(1, 2))
        self.last = nn.Linear(24, 10)

    def forward(self, x):
        for layer in (self.first, self.strided, self.wide):
            x = torch.relu(layer(x))
        return self.last(x.mean((2, 3)))


def problem(budget="parameters", data=True):
    torch.manual_seed(0)
    images = torch.randn(32, 3, 8, 8)

    def batches():
        yield {"x": images}, None

    net = Net().eval()
    return NetworkProblem(net, "conv", {"x": images[:1]}, batches if data else None, budget)


VARIANTS = [
    {},
    {"error": "bound"},
    {"error": "unscaled"},
    {"error": "frobenius", "objective": "sum"},
    {"error": "data"},
    {"error": "data", "objective": "sum", "max_groups": 4},
    {"search": "em"},
    {"groups": 3, "allocation": "uniform"},
    {"allocation": "uniform"},
    {"schemes": "all"},
    {"max_groups": 4, "align": 4},
]


@pytest.mark.parametrize("params", VARIANTS, ids=str)
def test_a_network_does_not_depend_on_what_was_compressed_before(params):
    used, method = problem(), make_method("alds", **params)
    rates = (0.15, 0.25, 0.35, 0.45, 0.55, 0.65)
    after = {rate: compress_within(used, method, rate).layers for rate in rates}
    for rate in rates:
        alone = compress_within(problem(), method, rate).layers
        for layer, same in zip(alone, after[rate], strict=True):  # errors up to rounding
            assert {k: v for k, v in layer.items() if not isinstance(v, float)} == {
                k: v for k, v in same.items() if not isinstance(v, float)
            }


@pytest.mark.parametrize("budget", ["parameters", "macs"])
def test_networks_keep_the_budget_and_are_reported_truthfully(budget):
    given = problem(budget)
    for params in VARIANTS:
        method = make_method("alds", **params)
        for compression in (0.3, 0.6):
            found = compress_within(given, method, compression)  # checks the kept count itself
            assert found.info["achieved_compression"] >= compression - 1e-12, params
            for layer, row in zip(given.layers, found.layers, strict=True):
                module = found.model.get_submodule(layer.name)
                kept = sum(parameter.numel() for parameter in module.parameters())
                assert row["parameters"] == kept
                if row["rank"] is not None:
                    assert row["rank"] % method.align == 0
                    assert row["groups"] <= (method.max_groups or 24)
                    dense = given.model.get_submodule(layer.name).weight.detach()
                    both = dense - module.weight.detach(), dense
                    shape = (*dense.shape, 1, 1)[:4]
                    lost, whole = (fold(w.reshape(shape), row["scheme"])[0] for w in both)
                    norms = [float(torch.linalg.matrix_norm(m, 2)) for m in (lost, whole)]
                    assert row["spectral_error"] == pytest.approx(norms[0] / norms[1], rel=1e-4)
                    if method.error == "spectral":
                        assert row["error"] == pytest.approx(row["spectral_error"], abs=1e-5)
                    if row["bound"] is not None:
                        assert row["spectral_error"] <= row["bound"] + 1e-5


def test_the_data_error_includes_the_new_bias():
    given = problem()
    found = make_method("alds", error="data", groups=2, objective="minimax").compress(given, 0.5)
    inputs, _ = next(iter(given.batches()))
    images, old, new = inputs["x"], given.model, found.model
    row = next(row for row in found.layers if row["name"] == "first")
    assert row["rank"] is not None
    dense, kept = old.first(images).detach(), new.first(images).detach()
    centred = dense - dense.mean((0, 2, 3), keepdim=True)
    # Up to the shrinkage of a covariance from 2048 rows.
    assert float((dense - kept).norm() / centred.norm()) == pytest.approx(row["error"], rel=0.02)
    # The mean response is preserved.
    torch.testing.assert_close(kept.mean((0, 2, 3)), dense.mean((0, 2, 3)), atol=1e-4, rtol=0)


def test_one_group_is_the_truncated_svd_of_each_layer():
    given = problem()
    found = make_method("alds", groups=1).compress(given, 0.5)
    for row in found.layers:
        dense = given.model.get_submodule(row["name"]).weight
        kept = found.model.get_submodule(row["name"]).weight
        if row["rank"] is None:
            torch.testing.assert_close(kept, dense, rtol=0, atol=0)
            continue
        u, s, vh = torch.linalg.svd(dense.flatten(1), full_matrices=False)
        expected = u[:, : row["rank"]] * s[: row["rank"]] @ vh[: row["rank"]]
        torch.testing.assert_close(kept.flatten(1), expected, atol=1e-5, rtol=1e-4)


def test_more_options_never_raise_the_objective():
    given = problem()

    def objective(**params):
        return make_method("alds", **params).compress(given, 0.6).info["objective"]

    assert objective(schemes="all") <= objective() <= objective(max_groups=4) <= objective(groups=1)
    assert objective() <= objective(search="em")


def test_a_budget_out_of_reach_names_the_largest_compression():
    given = problem()
    with pytest.raises(LowRankError, match=r"the largest compression is 0\.(\d+)") as caught:
        make_method("alds").compress(given, 0.99)
    least = float(str(caught.value).rpartition(" ")[2])
    assert make_method("alds").compress(given, least - 1e-3).info["spent"] > 0


def test_bad_requests_end_in_one_line():
    with pytest.raises(LowRankError, match="calibration"):
        make_method("alds", error="data").compress(problem(data=False), 0.5)
    for params, match in [
        ({"groups": 0}, "groups must be"),
        ({"objective": "sum"}, "objective = sum needs"),
        ({"error": "data", "schemes": "all"}, "schemes = 0"),
        ({"search": "em", "allocation": "uniform"}, "nothing to search"),
        ({"error": "energy"}, "error"),
    ]:
        with pytest.raises(LowRankError, match=match):
            make_method("alds", **params)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_loss_error_is_the_error_of_its_factors_in_both_metrics(groups):
    generator = torch.Generator().manual_seed(groups)
    weight = torch.randn(6, 8, 1, 1, generator=generator).double()
    c, g = (torch.randn(n, n, generator=generator).double() for n in (8, 6))
    c, g = c @ c.T, g @ g.T
    whitened = Whitened(weight, c, gradients=g, scale=0.7)
    errors = whitened.curve(groups, np.arange(1, 3)).all()
    floored = g + 0.01 * g.trace() / 6 * torch.eye(6)
    for rank, error in zip((1, 2), errors, strict=True):
        left, right = whitened.factors(groups, rank)
        lost = weight.flatten(1) - torch.cat(list(left @ right), dim=1)
        assert error**2 == pytest.approx(
            0.7 * float((floored @ lost @ c @ lost.T).trace()), abs=1e-6
        )


def test_one_group_of_the_loss_error_is_optimal_at_its_rank():
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(6, 8, 1, 1, generator=generator).double()
    c, g = (torch.randn(n, n, generator=generator).double() for n in (8, 6))
    c, g = c @ c.T, g @ g.T + 5 * torch.eye(6)
    floored = (g + 0.01 * g.trace() / 6 * torch.eye(6)).numpy()
    roots = [scipy.linalg.sqrtm(m).real for m in (floored, c.numpy())]
    values = np.linalg.svd(roots[0] @ weight.flatten(1).numpy() @ roots[1], compute_uv=False)
    found = Whitened(weight, c, gradients=g).curve(1, np.arange(5)).all()
    wanted = np.sqrt([np.square(values[k:]).sum() for k in range(5)])
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
