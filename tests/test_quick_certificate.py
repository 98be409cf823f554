"""Certificates of large tables: never false, near the thorough ones, and cheap to leave out."""

import math

import numpy as np
import pytest
import torch
from test_false_certificates import RESTARTS, gauss, norms, rivals
from torch import nn

from lowrank_bench import compress
from lowrank_bench.compression.matrix import factorize
from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.certificates import quick
from lowrank_bench.linalg.certificates.certificate import certify
from lowrank_bench.linalg.certificates.quick import quick_certificate
from lowrank_bench.linalg.factors import Factors
from lowrank_bench.methods import make_method

KINDS = ("plain", "decay", "heavy", "outliers", "sparse", "near low rank", "half zero", "mean")
METHODS = (("svd", {}), ("lp", {}), ("l21", {}), ("irls", {}), ("lp", {"center": True}))
PRECISIONS = (torch.float32, torch.float32, torch.float64, torch.bfloat16)


def table(kind: str, seed: int, rows: int, columns: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    a = gauss(random, rows, columns)
    turn = np.linalg.qr(gauss(random, columns, columns))[0]
    if kind == "decay":
        a = a * (1 + np.arange(columns)) ** -random.uniform(0.3, 1.5) @ turn
    if kind == "heavy":
        a /= np.abs(gauss(random, rows, 1))
    if kind == "outliers":
        a[random.integers(0, rows, size=3)] *= 1000
    if kind == "sparse":
        a *= random.random((rows, columns)) < 0.2
    if kind == "near low rank":
        a = gauss(random, rows, 2) @ gauss(random, 2, columns) + 10 ** random.uniform(-6, 0) * a
    if kind == "half zero":
        a[: rows // 2] = 0
    if kind == "mean":
        a += 3 * gauss(random, 1, columns)
    return a * 10.0 ** random.integers(-4, 5)


def check(seed: int, restarts: int) -> int:
    """Certify factors of a matrix in its own precision, and compare with rivals."""
    random = np.random.default_rng(seed)
    rows, columns = int(random.integers(20, 150)), int(random.integers(4, 20))
    dtype = PRECISIONS[seed // 8 % len(PRECISIONS)]
    a = torch.from_numpy(table(KINDS[seed % len(KINDS)], seed, rows, columns)).to(dtype)
    name, params = METHODS[seed % len(METHODS)]
    rank = int(random.integers(1, max(2, columns // 2)))
    made = factorize(a, make_method(name, **params), rank, {})
    spectrum = made.spectrum if seed % 3 else None
    found = quick_certificate(a, made.factors, spectrum, made.projected and seed % 2 == 0)
    if found is None:  # rounding would matter: the thorough one is taken
        return 0
    exact, limit = a.double().numpy(), rank + bool(params)
    own = made.factors.to(dtype=torch.float64).dense().numpy()
    tried = [norms(exact - b, 1.0) for b in rivals(exact, limit, seed, restarts)]
    ours, size = norms(exact - own, 1.0), norms(exact, 1.0)
    for norm, report in found.items():
        least = min(errors[norm] for errors in tried)
        noise = 4e-16 * (limit + 2) * size[norm]
        assert report["error"] == pytest.approx(ours[norm], rel=1e-2)
        assert report["bound"] <= least * (1 + 1e-12) + noise, (seed, norm, report, least)
        assert report["within"] >= 1
        # The error is at most `within` times the bound, whatever the pass rounded.
        assert ours[norm] <= report["within"] * report["bound"] * (1 + 1e-12), (seed, norm)
    return len(found)


def test_no_quick_certificate_is_false():
    assert sum(check(seed, restarts=2) for seed in range(160)) > 250


@pytest.mark.campaign
@pytest.mark.parametrize("part", range(10))
def test_campaign_of_quick_certificates(part):
    count = sum(check(10_000 + 400 * part + seed, RESTARTS) for seed in range(400))
    print(f"part {part}: {count} quick certificates, none false")
    assert count > 600


@pytest.mark.parametrize("method", ["svd", "lp", "irls"])
@pytest.mark.parametrize("kind", ["plain", "decay", "heavy", "mean"])
def test_quick_bounds_are_near_the_thorough_ones(kind, method):
    a = torch.from_numpy(table(kind, 5, 2000, 48)).float()
    made = factorize(a, make_method(method), 12, {})
    full = certify(a, made.factors, thorough=True)
    found = quick_certificate(a, made.factors, made.spectrum, made.projected)
    assert found["fro"]["bound"] == pytest.approx(full["fro"]["bound"], rel=1e-2)
    for norm in ("fro", "l1", "l21"):
        assert found[norm]["error"] == pytest.approx(full[norm]["error"], rel=1e-5)
        assert found[norm]["relative"] == pytest.approx(full[norm]["relative"], rel=1e-5)
    # Rows of one length lose little, and a flat spectrum little more.
    least = {"heavy": 0.3, "decay": 0.65}.get(kind, 0.75)
    assert least * full["l21"]["bound"] <= found["l21"]["bound"]


def test_the_spectrum_that_svd_has_gives_the_same_form():
    a = torch.from_numpy(table("decay", 1, 300, 24))
    made = factorize(a, make_method("svd"), 6, {})
    with_it = quick_certificate(a, made.factors, made.spectrum, made.projected)
    alone = quick_certificate(a, made.factors)
    exact = float(torch.linalg.svdvals(a)[6:].norm())
    assert with_it["fro"]["bound"] == pytest.approx(exact, rel=1e-6)
    for norm, report in alone.items():
        assert report["bound"] == pytest.approx(with_it[norm]["bound"], rel=1e-3)


@pytest.mark.parametrize(
    ("shape", "scale", "rank"), [((8, 12), 1.0, 3), ((30, 12), 1e30, 3), ((30, 12), 1e-30, 3)]
)
def test_what_is_left_to_the_thorough_certificate(shape, scale, rank):
    a = torch.from_numpy(table("plain", 2, *shape) * scale)
    assert quick_certificate(a, factorize(a, make_method("svd"), rank, {}).factors) is None
    low = torch.randn(30, 2) @ torch.randn(2, 12)  # exact factors: only rounding is left
    assert quick_certificate(low, factorize(low, make_method("svd"), 2, {}).factors) is None
    torch.set_float32_matmul_precision("medium")
    try:
        plain = torch.randn(30, 12)
        assert quick_certificate(plain, Factors(plain[:, :2], torch.eye(12)[:2])) is None
    finally:
        torch.set_float32_matmul_precision("highest")


def test_large_tables_take_the_quick_certificate_unless_asked(monkeypatch):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(900, 32), nn.Linear(32, 2))
    small = compress(net, "lp", 0.5)[1]
    full = compress(net, "lp", 0.5, certificate="full")[1]
    assert (small.within_l21, small.rel_error_l1) == (full.within_l21, full.rel_error_l1)
    monkeypatch.setattr("lowrank_bench.compression.embedding.LARGE", 900 * 32 - 1)
    large = compress(net, "lp", 0.5)[1]
    assert compress(net, "lp", 0.5, certificate="full")[1].within_l21 == full.within_l21
    assert full.within_l21 < large.within_l21 < 1.5 * full.within_l21
    for norm in ("fro", "l1", "l21"):
        error, other = (getattr(one, f"rel_error_{norm}") for one in (large, full))
        assert error == pytest.approx(other, rel=1e-5)
        assert math.isfinite(getattr(large, f"within_{norm}"))
    monkeypatch.setattr(quick, "ACCEPTED", 0.0)  # nothing is accurate enough
    assert compress(net, "lp", 0.5)[1].within_l21 == full.within_l21


@pytest.mark.parametrize("value", ["none", "quick", None, 2, [], "Full"])
def test_a_certificate_that_does_not_exist(value):
    net = nn.Sequential(nn.Embedding(9, 4))
    with pytest.raises(LowRankError, match="certificate is True, False or 'full'"):
        compress(net, "svd", 0.5, certificate=value)
