"""Lower bounds against brute force, known optima and local searches that try to beat them."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.certificates.certificate import certify, proven_factors, rank_limit
from lowrank_bench.linalg.certificates.lower_bounds import LowerBounds
from lowrank_bench.linalg.ellipsoid.lewis import lewis_weights
from lowrank_bench.linalg.factors import BlockFactors, ClusteredFactors, Factors
from lowrank_bench.linalg.robust.irls import alternate
from lowrank_bench.linalg.robust.row_robust import nearest_subspace
from lowrank_bench.methods import make_method
from lowrank_bench.problem import Problem

SLACK = 1 - 1e-9


def gauss(seed: int, rows: int, columns: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def matrix(kind: str, seed: int, rows: int, columns: int) -> torch.Tensor:
    a = gauss(seed, rows, columns)
    if kind == "heavy":
        return a / gauss(seed + 1, rows, 1).abs()
    if kind == "steep":
        turn = torch.linalg.qr(gauss(seed + 2, columns, columns)).Q
        return a * 10.0 ** -torch.arange(columns) @ turn
    if kind == "sparse":
        return a * (gauss(seed + 3, rows, columns) > 1)
    return a


def rows_norm(error: torch.Tensor, p: float) -> float:
    return float(np.linalg.norm(np.linalg.norm(error.numpy(), axis=1), p))


def entries_norm(error: torch.Tensor, p: float) -> float:
    return float(np.linalg.norm(error.numpy().ravel(), p))


def rivals(a: torch.Tensor, rank: int, p: float, seed: int):
    """Matrices of that rank close to `a`, by local search from random starts and columns."""
    u, s, v = torch.linalg.svd(a, full_matrices=False)
    yield u[:, :rank] * s[:rank] @ v[:rank]
    own = a[:, :rank]
    yield own @ torch.linalg.lstsq(own, a, driver="gelsd").solution
    for start in range(3):
        basis = torch.linalg.qr(gauss(seed + 50 + start, a.shape[1], rank)).Q
        power = min(p, 1.9)
        fit = alternate(a, basis, power, sweeps=10)
        yield fit.left @ fit.right
        near = nearest_subspace(a, basis, power, steps=10).basis
        yield a @ near @ near.T


@settings(deadline=None, max_examples=40)
@given(
    kind=st.sampled_from(["plain", "heavy", "steep", "sparse"]),
    seed=st.integers(0, 999),
    rows=st.integers(2, 30),
    columns=st.integers(2, 10),
    rank=st.integers(1, 9),
    power=st.sampled_from([1.0, 1.4, 2.0, 3.0, 20.0, math.inf]),
)
def test_nothing_beats_the_bounds(kind, seed, rows, columns, rank, power):
    a = matrix(kind, seed, rows, columns)
    rank = min(rank, rows, columns)
    bounds = LowerBounds(a)
    by_rows = bounds.rows(rank, power, thorough=True)[0]
    by_entries = bounds.entries(rank, power, thorough=True)[0]
    grouped = bounds.convex(rank, power, 2) if power <= 2 else 0.0
    noise = 1e-11 * entries_norm(a, 1.0)
    for rival in rivals(a, rank, power, seed):
        assert torch.linalg.matrix_rank(rival, rtol=1e-9) <= rank
        error = a - rival
        assert bounds.frobenius(rank) * SLACK <= error.norm() + noise
        assert by_rows * SLACK <= rows_norm(error, power) + noise
        assert max(by_entries, grouped) * SLACK <= entries_norm(error, power) + noise


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0])
def test_lines_in_the_plane_by_brute_force(power):
    """The optimum by rows over a grid of all lines; the bound is just below it."""
    angles = torch.linspace(0, np.pi, 4001, dtype=torch.float64)
    normals = torch.stack([-angles.sin(), angles.cos()])
    for seed in range(10):
        a = gauss(seed, 50, 2) * torch.tensor([3.0, 0.3])
        optimum = float((a @ normals).abs().pow(power).sum(dim=0).min()) ** (1 / power)
        bound, name = LowerBounds(a).rows(1, power, thorough=True)
        assert 0.85 * optimum <= bound <= optimum * (1 + 1e-9)
        assert name == "convex" if power < 2 else bound == pytest.approx(optimum, rel=1e-5)


@pytest.mark.parametrize("rank", [1, 5, 11])
def test_identity_is_bounded_exactly(rank):
    """For the identity, the smallest error in ℓ1 and ℓ2,1 is d − k: keep k coordinates."""
    bounds = LowerBounds(torch.eye(12))
    kept = torch.eye(12, rank).double()
    report = certify(torch.eye(12), Factors(kept, kept.T), bounds=bounds, thorough=True)
    assert bounds.convex(rank, 1.0) == pytest.approx(12 - rank, rel=1e-9)
    for norm in ("l1", "l21", "lp", "l2p"):
        assert report[norm]["error"] == pytest.approx(12 - rank)
        assert report[norm]["within"] == pytest.approx(1, rel=1e-9)
    assert report["fro"]["within"] == pytest.approx(1, rel=1e-12)


def test_groups_of_columns_add_up():
    """For copies of a matrix side by side, the bounds of the groups sum to the whole bound."""
    a = gauss(1, 60, 8)
    copies = torch.cat([a, a, a], dim=1)
    one = LowerBounds(a).convex(2, 1.0)
    assert LowerBounds(copies).convex(2, 1.0, 3) == pytest.approx(3 * one, rel=1e-9)
    assert LowerBounds(copies).entries(2, 1.0, thorough=True)[1] == "convex in groups"


def test_convex_bound_is_tight_despite_outlier_rows():
    """For rows in a subspace and outliers: nearly the distance of the outliers from it."""
    basis = torch.linalg.qr(gauss(2, 20, 4)).Q
    a = gauss(3, 300, 4) @ basis.T
    a[::10] = 5 * gauss(4, 30, 20)
    optimum = rows_norm(a - a @ basis @ basis.T, 1.0)
    bounds = LowerBounds(a)
    assert 0.9 * optimum <= bounds.rows(4, 1.0, thorough=True)[0] <= optimum * (1 + 1e-9)
    assert bounds.rows(4, 1.0)[0] < 0.5 * optimum


@pytest.mark.parametrize("power", [1.0, 1.25, 1.5, 2.0, 3.0, 6.0, math.inf])
@pytest.mark.parametrize("shape", [(200, 12), (30, 12), (8, 12)])
def test_projection_of_lp_keeps_its_proven_factor(power, shape):
    for seed in range(5):
        a = matrix("heavy", seed, *shape)
        a[:3] *= 100
        lewis = lewis_weights(a, power)
        axes = torch.linalg.svd(lewis.root).Vh
        bounds = LowerBounds(a, lewis)
        assert bounds.form(power) is lewis
        for rank in (1, 4, 7):
            proven = proven_factors(lewis, rank)
            error = a - a @ axes[:rank].T @ axes[:rank]
            rows, entries = bounds.ellipsoid(rank, power)
            assert rows_norm(error, power) * SLACK <= proven["l2p"] * rows
            assert entries_norm(error, power) * SLACK <= proven["lp"] * entries


def test_proven_factors_have_the_stated_size():
    lewis = lewis_weights(gauss(5, 100, 16), 1.0, tolerance=1e-9)
    assert proven_factors(lewis, 3) == pytest.approx({"l2p": 4.0, "lp": 16.0}, rel=1e-6)
    plain = lewis_weights(gauss(5, 100, 16), 2.0)
    assert proven_factors(plain, 3) == pytest.approx({"l2p": 1.0, "lp": 1.0})


def test_ellipsoid_bound_closed_form():
    """For the identity the weights are one, and the bound is the root of d − k for p ≤ 2."""
    for power in (1.0, 1.5, 2.0):
        rows, entries = LowerBounds(torch.eye(9)).ellipsoid(5, power)
        assert rows == entries == pytest.approx(2.0, rel=1e-5)
    power_means = 2 * (9 * 4) ** (1 / 3 - 0.5), 2 * (9 * 4 * 9) ** (1 / 3 - 0.5)
    assert LowerBounds(torch.eye(9)).ellipsoid(5, 3.0) == pytest.approx(power_means, rel=1e-5)


@pytest.mark.parametrize("power", [1.5, math.inf])
@pytest.mark.parametrize("magnitude", [1e-120, 1.0, 1e120])
def test_report(magnitude, power):
    a = matrix("heavy", 6, 80, 10) * magnitude
    factors = make_method("svd").decompose(Problem(a)).factors(3)
    report = json.loads(json.dumps(certify(a, factors, p=power, thorough=True), allow_nan=False))
    scaled, error = a / magnitude, (a - factors.dense()) / magnitude
    expected = {
        "fro": (error.norm(), scaled.norm()),
        "l1": (error.abs().sum(), scaled.abs().sum()),
        "l21": (rows_norm(error, 1.0), rows_norm(scaled, 1.0)),
        "lp": (entries_norm(error, power), entries_norm(scaled, power)),
        "l2p": (rows_norm(error, power), rows_norm(scaled, power)),
    }
    assert report.keys() == expected.keys()
    for norm, (least, whole) in expected.items():
        found = report[norm]
        assert found["error"] / magnitude == pytest.approx(float(least), rel=1e-9)
        assert found["relative"] == pytest.approx(float(least) / float(whole), rel=1e-9)
        assert found["within"] == pytest.approx(found["error"] / found["bound"])
        assert found["within"] >= SLACK
    assert report["fro"]["within"] == pytest.approx(1, rel=1e-9)
    assert report["l21"]["within"] < 1.5


@pytest.mark.parametrize("thorough", [False, True])
def test_exact_factors_are_certified_within_one(thorough):
    left, right = gauss(7, 40, 3), gauss(8, 3, 9)
    report = certify(left @ right, Factors(left, right), thorough=thorough)
    for found in report.values():
        assert found["within"] == 1.0
        assert found["bound"] <= 1e-9 * found["error"] / max(found["relative"], 1e-300) + 1e-9
    zero = certify(torch.zeros(5, 4), Factors(torch.zeros(5, 1), torch.zeros(1, 4)))
    assert {found["within"] for found in zero.values()} == {1.0}
    worse = certify(left @ right, Factors(2 * left, right), thorough=thorough)
    assert {found["within"] for found in worse.values()} == {None}


def test_partitions():
    a = gauss(9, 60, 10)
    labels = torch.arange(60) % 2
    bases = torch.stack([torch.eye(10)[:3], torch.eye(10)[3:6]]).double()
    left = torch.stack([bases[label] @ row for row, label in zip(a, labels, strict=True)])
    clustered = ClusteredFactors(left, bases, labels)
    assert rank_limit(clustered) == 6
    report = certify(a, clustered)
    assert report["fro"]["bound"] == pytest.approx(float(torch.linalg.svdvals(a)[6:].norm()))
    assert report["fro"]["error"] == pytest.approx(float((a - clustered.dense()).norm()))
    full = ClusteredFactors(left, bases.repeat(2, 1, 1), labels)
    parts = tuple(Factors(left[labels == c], bases[c]) for c in (0, 1))
    for other in (full, BlockFactors(labels, parts)):
        assert rank_limit(other) is None
        found = certify(a, other)["l1"]
        assert found["bound"] is found["within"] is None
        assert math.isclose(found["error"], float((a - other.dense()).abs().sum()))


def test_a_common_bias_counts_as_one_rank():
    a = gauss(10, 30, 6) + 10
    factors = make_method("l21", center=True).decompose(Problem(a, rank=2)).factors(2)
    assert rank_limit(factors) == 3
    found = certify(a, factors, thorough=True)
    assert found["fro"]["bound"] == pytest.approx(float(torch.linalg.svdvals(a)[3:].norm()))
    assert found["l21"]["within"] >= SLACK


def test_bounds_are_shared_by_ranks_and_methods(monkeypatch):
    a = gauss(11, 50, 8)
    bounds = LowerBounds(a)
    factors = make_method("svd").decompose(Problem(a))
    first = certify(a, factors.factors(3), bounds=bounds, thorough=True)
    monkeypatch.setattr("lowrank_bench.linalg.certificates.lower_bounds.lewis_weights", None)
    monkeypatch.setattr("lowrank_bench.linalg.certificates.rounding.Rows.blocks", None)
    assert certify(a, factors.factors(3), bounds=bounds, thorough=True) == first
    assert certify(a, factors.factors(5), bounds=bounds)["l1"]["bound"] < first["l1"]["bound"]


def test_wrong_input():
    a = gauss(12, 10, 4)
    with pytest.raises(LowRankError, match="factors of a 9x4 matrix"):
        certify(a, Factors(torch.zeros(9, 1), torch.zeros(1, 4)))
    for power in (0.5, math.nan):
        with pytest.raises(LowRankError, match="p >= 1"):
            certify(a, Factors(torch.zeros(10, 1), torch.zeros(1, 4)), p=power)
