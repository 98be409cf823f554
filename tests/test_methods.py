"""The methods svd and lp against torch's SVD, their guarantees, and the registry's contract."""

import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.certificates.certificate import relative_errors
from lowrank_bench.linalg.decomposition import Projection, complete, orient
from lowrank_bench.linalg.ellipsoid.lewis import lewis_weights
from lowrank_bench.linalg.factors import Factors
from lowrank_bench.methods import make_method
from lowrank_bench.problem import Problem

CONFIGS = Path(__file__).parents[1] / "conf" / "method"


def matrix(seed: int, rows: int, columns: int, decay: float = 0.5) -> torch.Tensor:
    """A Gaussian matrix with a decaying spectrum in a random basis."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    spectrum = torch.arange(1, columns + 1, dtype=torch.float64) ** -decay
    square = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    return a * spectrum @ torch.linalg.qr(square).Q


def with_far_rows(seed: int = 0) -> torch.Tensor:
    """A low-rank cloud with noise and a few outlier rows, each in its own direction."""
    generator = torch.Generator().manual_seed(seed)
    a = matrix(seed, 1000, 40, 1.0)
    far = torch.randn(15, 40, generator=generator, dtype=torch.float64)
    a[:15] = 8 * far
    return a


def test_registry_needs_no_torch():
    code = (
        "import sys, lowrank_bench.methods as m; [m.method_class(n) for n in m.method_names()]; "
        "assert {'svd', 'lp'} <= set(m.method_names()); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["svd", "lp"])
def test_config_names_valid_parameters(name):
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    assert config["name"] == name
    for values in product(*config["grid"].values()):
        params = config["params"] | dict(zip(config["grid"], values, strict=True))
        assert params.items() <= make_method(name, **params).model_dump().items()


@pytest.mark.parametrize("value", [0.99, 16.5, 17, "two", float("nan"), float("-inf")])
def test_lp_refuses_bad_exponents(value):
    with pytest.raises(LowRankError, match=r"method 'lp': p = .* is not valid: Input should be"):
        make_method("lp", p=value)


@pytest.mark.parametrize(
    ("name", "params", "words"),
    [
        ("alds", {"groups": 0}, "groups = 0 .* best or a whole number"),
        ("alds", {"groups": True}, "best or a whole number"),
        ("alds", {"groups": float("nan")}, "best or a whole number"),
        ("alds", {"groups": "3"}, "best or a whole number"),
        ("alds", {"groups": 8, "max_groups": 2}, "drop one of them"),
        ("alds", {"max_groups": True}, "max_groups = True"),
        ("alds", {"align": 1000}, "align = 1000"),
        ("alds", {"align": float("nan")}, "align = nan"),
        ("alds", {"schemes": 1}, "schemes = 1"),
        ("alds", {"error": "spectrum"}, "error = 'spectrum'"),
        ("alds", {"search": "em", "objective": "sum", "error": "data"}, "objective = minimax"),
        ("alds", {"allocation": "uniform", "objective": "sum", "error": "data"}, "uniform"),
        ("pfp", {"samples": True}, "samples = True"),
        ("pfp", {"delta": float("nan")}, "delta = nan"),
        ("pfp", {"variant": "sampled"}, "variant = 'sampled'"),
        ("thinet", {"samples": 0}, "samples = 0"),
        ("thinet", {"samples": True}, "samples = True"),
        ("thinet", {"samples": 10**9}, "samples = 1000000000"),
        ("filter_threshold", {"power": 1}, "no parameter 'power'"),
        ("softnet", {"power": 2}, "no parameter 'power'"),
        ("lrank", {"rank": 2}, "no parameter 'rank'"),
        ("pca", {"rank": 2}, "no parameter 'rank'"),
        ("svd_energy", {"energy": 2}, "no parameter 'energy'"),
    ],
)
def test_bad_parameters_of_whole_networks_are_refused_in_one_line(name, params, words):
    with pytest.raises(LowRankError, match=words) as refusal:
        make_method(name, **params)
    assert "\n" not in str(refusal.value)


def test_a_scheme_is_accepted_as_yaml_parses_it():
    assert make_method("alds", schemes=0) == make_method("alds", schemes="0")
    assert make_method("alds", groups=3).groups == 3


def test_unknown_parameters_and_labels():
    with pytest.raises(LowRankError, match="method 'svd' has no parameter 'p'; known: none"):
        make_method("svd", p=1)
    assert make_method("svd").label() == "svd"
    assert make_method("lp").label() == "lp (p=1)"
    assert make_method("lp", p=1.5).label() == "lp (p=1.5)"


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 50),
    columns=st.integers(1, 50),
    decay=st.sampled_from([0.0, 1.0, 6.0]),
    magnitude=st.sampled_from([1e-100, 1.0, 1e100]),
    data=st.data(),
)
def test_svd_error_is_the_smallest_possible(rows, columns, decay, magnitude, data):
    a = matrix(rows + columns, rows, columns, decay)
    rank = data.draw(st.integers(1, min(rows, columns)))
    values = torch.linalg.svdvals(a)
    factors = make_method("svd").decompose(Problem(a * magnitude)).factors(rank)
    assert factors.rank == rank
    assert factors.n_parameters == rank * (rows + columns)
    error = (a - factors.dense() / magnitude).norm().item()
    least = values[rank:].norm().item()
    assert error == pytest.approx(least, rel=1e-6, abs=1e-13 * values[0].item())
    reported = relative_errors(a * magnitude, factors)["rel_error_fro"]
    assert reported == pytest.approx(error / a.norm().item(), rel=1e-6, abs=1e-13)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 99), rows=st.integers(1, 60), columns=st.integers(1, 20))
def test_lp_at_two_equals_svd(seed, rows, columns):
    a = matrix(seed, rows, columns, 1.5)
    rank = max(1, min(rows, columns) // 2)
    one, two = (
        m.decompose(Problem(a)).factors(rank).dense()
        for m in (make_method("svd"), make_method("lp", p=2))
    )
    torch.testing.assert_close(one, two, rtol=0, atol=1e-6 * a.abs().max().item())


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 99),
    rows=st.integers(1, 60),
    columns=st.integers(1, 20),
    power=st.sampled_from([1.0, 1.5, 3.0]),
)
def test_lp_projects_onto_nested_subspaces(seed, rows, columns, power):
    a = matrix(seed, rows, columns)
    a[:: max(2, seed)] *= 30
    projection = make_method("lp", p=power).decompose(Problem(a))
    small = min(rows, columns)
    torch.testing.assert_close(projection.basis.T @ projection.basis, torch.eye(small).double())
    errors = [
        relative_errors(a, projection.factors(k))["rel_error_fro"] for k in range(1, small + 1)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-10
    factors = projection.factors(small)
    torch.testing.assert_close(factors.left, a @ factors.right.T)


@pytest.mark.parametrize("power", [1.0, 1.25, 1.5, 1.75])
def test_lp_keeps_its_guarantee(power):
    """The bound stated in its docstring, with the lower bound on the optimum that proves it."""
    a = with_far_rows()
    d = a.shape[1]
    axes = torch.linalg.svdvals(lewis_weights(a, power).root)
    projection = make_method("lp", p=power).decompose(Problem(a))
    for k in (1, 10, 39):
        gap = a - projection.factors(k).dense()
        error = torch.linalg.vector_norm(gap, ord=power)
        assert error <= d ** (2 / power - 1) * (d - k) ** 0.5 * axes[k] * (1 + 1e-6)
        best_known = a - make_method("svd").decompose(Problem(a)).factors(k).dense()
        assert torch.linalg.vector_norm(best_known, ord=power) >= axes[k] * (1 - 1e-6)


def test_outlier_rows_hurt_svd_more_than_lp():
    a = with_far_rows()
    errors = {
        label: relative_errors(a, make_method(name, **params).decompose(Problem(a)).factors(10))
        for label, name, params in (("svd", "svd", {}), ("lp", "lp", {"p": 1.0}))
    }
    assert errors["lp"]["rel_error_l1"] < 0.9 * errors["svd"]["rel_error_l1"]
    assert errors["lp"]["rel_error_fro"] > errors["svd"]["rel_error_fro"]


@pytest.mark.parametrize("name", ["svd", "lp"])
def test_degenerate_matrices(name):
    method = make_method(name)
    zero = method.decompose(Problem(torch.zeros(7, 4, dtype=torch.float64))).factors(4)
    assert (zero.dense() == 0).all()
    torch.testing.assert_close(zero.right @ zero.right.T, torch.eye(4).double())
    ones = torch.ones(7, 4, dtype=torch.float64)
    torch.testing.assert_close(method.decompose(Problem(ones)).factors(1).dense(), ones)
    low = matrix(0, 40, 3) @ matrix(1, 3, 12)
    low[5] = 0
    projection = method.decompose(Problem(low))
    assert projection.info["matrix_rank"] == 3
    torch.testing.assert_close(projection.factors(3).dense(), low)
    torch.testing.assert_close(projection.factors(12).dense(), low)
    torch.testing.assert_close(projection.basis.T @ projection.basis, torch.eye(12).double())
    row = matrix(2, 1, 9)
    torch.testing.assert_close(method.decompose(Problem(row)).factors(1).dense(), row)


@pytest.mark.parametrize("name", ["svd", "lp"])
def test_signs_are_fixed(name):
    a = matrix(3, 200, 10)
    basis = make_method(name).decompose(Problem(a)).basis
    assert (basis.gather(0, basis.abs().argmax(dim=0, keepdim=True)) > 0).all()
    again = make_method(name).decompose(Problem(-a)).basis
    torch.testing.assert_close(basis, again)
    assert torch.equal(basis, make_method(name).decompose(Problem(a)).basis)


def test_projection_on_disk():
    a = matrix(4, 30, 8)
    method = make_method("lp")
    projection = method.decompose(Problem(a))
    stored = projection.tensors()
    assert {k: v.shape for k, v in stored.items()} == {"basis": (8, 8)}
    again = method.decomposition_class().from_tensors(a, stored)
    assert torch.equal(again.factors(3).dense(), projection.factors(3).dense())
    with pytest.raises(LowRankError, match="8 columns, the matrix has 7"):
        Projection.from_tensors(a[:, :7], stored)
    for rank in (0, 9):
        with pytest.raises(LowRankError, match=rf"rank {rank} of a 30x8 matrix is not in 1\.\.8"):
            projection.factors(rank)


def test_complete_and_orient():
    basis = torch.linalg.qr(matrix(5, 6, 2)).Q
    full = complete(basis, 6)
    assert torch.equal(full[:, :2], basis)
    torch.testing.assert_close(full.T @ full, torch.eye(6).double())
    flipped = orient(torch.tensor([[1.0, -3.0], [-2.0, 1.0]]))
    assert flipped.tolist() == [[-1.0, 3.0], [2.0, -1.0]]


def test_relative_errors_by_hand():
    a = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    factors = Factors(torch.tensor([[1.0], [0.0]]), torch.tensor([[3.0, 0.0]]))
    assert relative_errors(a, factors) == {
        "rel_error_fro": pytest.approx(0.8),
        "rel_error_l1": pytest.approx(4 / 7),
        "rel_error_l21": pytest.approx(4 / 7),
    }
    zero = Factors(torch.zeros(2, 1), torch.zeros(1, 2))
    assert set(relative_errors(torch.zeros(2, 2), zero).values()) == {0.0}
    tall = torch.ones(5000, 2)  # several blocks of rows
    half = Factors(torch.ones(5000, 1), torch.full((1, 2), 0.5))
    assert set(relative_errors(tall, half).values()) == {0.5}
