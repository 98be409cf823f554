"""No certificate is false: bounds on matrices made to mislead, against searches for less error."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lowrank_bench import low_rank
from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.certificates.certificate import certify
from lowrank_bench.linalg.certificates.lower_bounds import LowerBounds
from lowrank_bench.linalg.factors import Factors

RESTARTS = 20
POWERS = (1.0, 1.5, 2.0, 3.0, math.inf)
NORMS = ("fro", "l1", "l21", "lp", "l2p")
PATTERNS = ("equal", "signs", "multiples", "half zero", "few kinds", "noise", "scaled rows")


def gauss(random: np.random.Generator, *shape: int) -> np.ndarray:
    return random.normal(size=shape)


def adversarial(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A matrix n×d of low rank, and factors that make it up to rounding, or up to noise."""
    random = np.random.default_rng(seed)
    rows, columns = int(random.integers(1, 61)), int(random.integers(1, 25))
    rank = int(random.integers(1, max(1, min(rows, columns) // 2) + 1))
    pattern = PATTERNS[seed % len(PATTERNS)]
    left, right = gauss(random, rows, rank), gauss(random, rank, columns)
    if pattern == "equal":
        left[:] = left[0]
    if pattern == "signs":
        left = random.choice([-1.0, 1.0], size=(rows, rank))
    if pattern == "multiples":
        left = random.integers(-9, 10, size=(rows, rank)).astype(float)
    if pattern == "half zero":
        left[: rows // 2] = 0
    if pattern == "few kinds":
        left = left[random.integers(0, min(rows, 3), size=rows)]
    if pattern == "scaled rows":
        left *= 10.0 ** random.integers(-12, 13, size=(rows, 1))
    a = left @ right
    if pattern == "noise":
        a = a + 10.0 ** random.integers(-17, 0) * gauss(random, rows, columns)
    scale = 2.0 ** float(random.choice([0, 0, 0, -500, 500, -1000, 900]))
    if random.random() < 0.3:
        a = a.astype(np.float32).astype(float)
    return a * scale, left * scale, right


def norms(error: np.ndarray, p: float) -> dict[str, float]:
    """The norms of certify, with numpy, of a matrix of moderate entries."""
    lengths = np.linalg.norm(error, axis=1)
    return {
        "fro": float(np.linalg.norm(lengths)),
        "l1": float(np.abs(error).sum()),
        "l21": float(lengths.sum()),
        "lp": float(np.linalg.norm(error.ravel(), p)),
        "l2p": float(np.linalg.norm(lengths, p)),
    }


def rivals(a: np.ndarray, rank: int, seed: int, restarts: int):
    """Matrices of rank at most k near `a`: the SVD, and reweighted fits of random starts."""
    random = np.random.default_rng(seed)
    u, s, v = np.linalg.svd(a, full_matrices=False)
    yield u[:, :rank] * s[:rank] @ v[:rank]
    for _ in range(restarts):
        own = a[:, random.permutation(a.shape[1])[:rank]]
        if random.random() < 0.5:  # the span of some rows instead of some columns
            own = a @ np.linalg.pinv(a[random.permutation(len(a))[:rank]])
        basis = np.linalg.qr(own)[0]
        yield basis @ (basis.T @ a)
        # One step of least squares that gives rows of a large error less weight.
        far = np.linalg.norm(a - basis @ (basis.T @ a), axis=1)
        weight = 1 / np.sqrt(np.maximum(far, 1e-9 * (far.max() or 1)))
        axes = np.linalg.svd(a * weight[:, None], full_matrices=False)[2][:rank]
        yield a @ axes.T @ axes


def check(seed: int, restarts: int) -> int:
    """Certify factors of a hostile matrix, and compare with the best error known."""
    whole, left, right = adversarial(seed)
    if not np.abs(whole).max() > 0:
        return 0
    unit = 2.0 ** float(np.frexp(np.abs(whole).max())[1])
    a, p = whole / unit, POWERS[seed % len(POWERS)]
    k = min(1 + seed % 4, *a.shape)
    method = ("svd", "lp", "l21")[seed % 3]
    try:
        factors = low_rank(whole, k, method)
    except LowRankError:  # `lp` may refuse rows whose lengths differ by 24 orders of magnitude
        factors = low_rank(whole, k, "svd")
    report = certify(torch.from_numpy(whole), factors, p=p, thorough=True)
    tried = [norms(a - b, p) for b in rivals(a, k, seed, restarts)]
    if right.shape[0] <= k:
        tried.append(norms(a - left / unit @ right, p))
    size = norms(a, p)
    for name in NORMS:
        least = min(errors[name] for errors in tried)
        noise = 4e-16 * (k + 2) * size[name]  # of the rival's own error
        found = report[name]
        assert found["within"] is None or found["within"] >= 1
        assert found["bound"] / unit <= least * (1 + 1e-12) + noise, (seed, name, found, least)
        if found["within"] is not None:
            best = found["error"] / unit / found["within"]
            assert best <= least * (1 + 1e-12) + noise, (seed, name, found, least)
    return len(NORMS)


def test_equal_rows_have_no_error_to_bound():
    """The case of the fault: this said within 2.6e-06, a multiple below one."""
    torch.manual_seed(0)
    a = torch.randn(1, 12).expand(200, 12)
    found = certify(a, low_rank(a, 1, "svd"), thorough=True)["l1"]
    assert found["bound"] == 0
    assert found["within"] is None


@pytest.mark.parametrize("kind", ["equal", "signs", "multiples", "half zero"])
def test_rank_one_matrices_are_not_bounded_away_from_rank_one(kind):
    for rows, columns, seed in itertools.product((50, 200, 1000), (6, 12, 40), range(2)):
        generator = torch.Generator().manual_seed(seed)
        row = torch.randn(1, columns, generator=generator)
        left = {
            "equal": torch.ones(rows, 1),
            "signs": torch.randint(0, 2, (rows, 1), generator=generator) * 2.0 - 1,
            "multiples": torch.randint(1, 9, (rows, 1), generator=generator).float(),
            "half zero": (torch.arange(rows) % 2).float()[:, None],
        }[kind]
        a, exact = left * row, Factors(left, row)
        rounding = 1e-15 * float(a.abs().sum()) if kind == "multiples" else 0.0
        best = float((a.double() - (left.double() @ row.double())).abs().sum()) + rounding
        report = certify(a, low_rank(a, 1, "svd"), thorough=True)
        for found in report.values():
            assert found["bound"] <= best
            assert found["within"] is None or found["within"] >= 1
        if kind != "multiples":
            assert certify(a, exact, thorough=True)["l1"]["within"] == 1.0


def test_matrices_made_to_mislead():
    assert sum(check(seed, restarts=3) for seed in range(120)) > 500


@pytest.mark.campaign
@pytest.mark.parametrize("part", range(20))
def test_campaign_of_certificates(part):
    """All together more than 20,000 certificates, each against the best of 20 restarts."""
    count = sum(check(1000 + 210 * part + seed, RESTARTS) for seed in range(210))
    print(f"part {part}: {count} certificates, none false")
    assert count > 950


def near_low_rank(seed: int, noise: float) -> Tensor:
    random = np.random.default_rng(seed)
    low = gauss(random, 300, 3) @ gauss(random, 3, 24)
    return torch.from_numpy(low + noise * gauss(random, 300, 24))


@pytest.mark.parametrize("noise", [1e-1, 1e-3, 1e-6, 1e-9])
def test_a_bound_is_not_lost_where_the_error_is_small(noise):
    """The margin for rounding is relative to the rows, not to the squares of their lengths."""
    a = near_low_rank(0, noise)
    bounds = LowerBounds(a)
    upper = norms((a - torch.from_numpy(next(rivals(a.numpy(), 3, 0, 0)))).numpy(), 1.0)
    assert bounds.frobenius(3) >= upper["fro"] * (1 - 1e-3)
    assert bounds.rows(3, 1.0, thorough=True)[0] >= 0.9 * upper["l21"]
