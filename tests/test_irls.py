"""Entrywise ℓp factors against linear programs, brute force and matrices with a known optimum."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.robust import irls
from lowrank_bench.linalg.robust.irls import alternate
from lowrank_bench.methods import make_method
from lowrank_bench.problem import Problem


def gauss(seed: int, rows: int, columns: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def gross(seed: int, rows: int, columns: int, share: float, size: float) -> torch.Tensor:
    """A sparse matrix of large entries."""
    generator = torch.Generator().manual_seed(seed)
    hit = torch.rand(rows, columns, generator=generator) < share
    return torch.where(hit, gauss(seed + 1, rows, columns) * size, 0.0)


def spectrum(seed: int, rows: int, columns: int) -> torch.Tensor:
    """A Gaussian matrix with singular values that decay like a power, in a random basis."""
    turn = torch.linalg.qr(gauss(seed + 7, columns, columns)).Q
    return gauss(seed, rows, columns) * torch.arange(1, columns + 1) ** -0.7 @ turn


def svd(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :rank] * s[:rank] @ v[:rank]


def size(error: torch.Tensor, p: float) -> float:
    peak = float(error.abs().max()) or 1.0
    return float((error.abs() / peak).pow(p).sum()) ** (1 / p) * peak


def decompose(matrix: torch.Tensor, rank: int, **params):
    return make_method("irls", **params).decompose(Problem(matrix, rank=rank))


MATRICES = {
    "plain": lambda n, d: gauss(0, n, d),
    "duplicates": lambda n, d: gauss(1, 1, d).repeat(n, 1) * (1 + torch.arange(n)[:, None] % 3),
    "zeros": lambda n, d: torch.zeros(n, d, dtype=torch.float64),
    "constant": lambda n, d: torch.full((n, d), 3.0, dtype=torch.float64),
    "deficient": lambda n, d: gauss(2, n, 2) @ gauss(3, 2, d),
    "sparse": lambda n, d: gross(4, n, d, 0.2, 1.0),
    "gross": lambda n, d: gauss(5, n, d) + gross(6, n, d, 0.05, 100.0),
    "zero rows": lambda n, d: gauss(7, n, d) * (torch.arange(n)[:, None] % 2),
    "uneven columns": lambda n, d: gauss(8, n, d) * 10.0 ** -torch.arange(d),
}


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(sorted(MATRICES)),
    rows=st.integers(1, 30),
    columns=st.integers(1, 12),
    rank=st.integers(1, 12),
    power=st.sampled_from([1.0, 1.3, 1.9]),
    magnitude=st.sampled_from([1e-100, 1.0, 1e100]),
    refit=st.sampled_from(["both", "left"]),
)
def test_error_is_never_above_that_of_the_svd(kind, rows, columns, rank, power, magnitude, refit):
    a = MATRICES[kind](rows, columns) * magnitude
    rank = min(rank, rows, columns)
    found = decompose(a, rank, p=power, refit=refit, sweeps=8).factors(rank)
    assert found.left.shape == (rows, rank)
    assert found.right.shape == (rank, columns)
    allowed = size(a - svd(a, rank), power) + 1e-12 * size(a, power)
    assert size(a - found.dense(), power) <= allowed


@pytest.mark.parametrize("kind", ["duplicates", "zeros", "constant", "deficient"])
def test_exact_low_rank_is_kept(kind):
    a = MATRICES[kind](40, 9)
    found = decompose(a, 2)
    assert size(a - found.factors(2).dense(), 1.0) <= 1e-12 * size(a, 1.0)
    assert found.info["sweeps"] == 0


def test_gross_entries_cost_a_quarter_less_than_with_the_svd():
    a = spectrum(0, 3000, 64)
    a = a + gross(1, 3000, 64, 0.01, 10 * float(a.std()))
    error = size(a - decompose(a, 24).factors(24).dense(), 1.0)
    assert error <= 0.75 * size(a - svd(a, 24), 1.0)


@pytest.mark.parametrize("seed", [0, 100, 200])
def test_gross_entries_are_found_exactly(seed):
    """Rank 5 plus five percent of gross entries: only these remain as the error."""
    sparse = gross(seed + 3, 400, 30, 0.05, 5.0)
    low = gauss(seed + 4, 400, 5) @ gauss(seed + 5, 5, 30)
    found = decompose(low + sparse, 5).factors(5).dense()
    assert size(low + sparse - found, 1.0) <= (1 + 1e-4) * size(sparse, 1.0)
    torch.testing.assert_close(found, low, rtol=0, atol=0.05)
    assert size(low - svd(low + sparse, 5), 1.0) > 1e3 * size(low - found, 1.0)


def test_better_start_escapes_the_subspace_of_the_svd():
    """One entry n and a block of ones: the best ℓ1 error is n, the SVD's is (n − 1)²."""
    n = 30
    a = torch.ones(n, n, dtype=torch.float64)
    a[0, :] = a[:, 0] = 0
    a[0, 0] = n
    assert size(a - svd(a, 1), 1.0) == pytest.approx((n - 1) ** 2)
    found = decompose(a, 1)
    assert size(a - found.factors(1).dense(), 1.0) == pytest.approx(n, rel=1e-6)
    assert found.info["start"] == "ellipsoid"


def test_a_better_start_is_kept():
    """Rows in a plane and a few across it: the first, smoothed sweep turns towards the latter."""
    a = torch.cat(
        [
            gauss(60, 60, 2) @ torch.eye(2, 6).double(),
            5 * gauss(61, 20, 4) @ torch.eye(6).double()[2:],
        ]
    )
    plane = torch.eye(6, 2).double()
    start = size(a - a @ plane @ plane.T, 1.0)
    fit = alternate(a, plane, 1.0, sweeps=1)
    assert fit.error == pytest.approx(start, rel=1e-12)
    assert size(a - fit.left @ fit.right, 1.0) == pytest.approx(start, rel=1e-12)


def by_linear_program(row: np.ndarray, right: np.ndarray) -> float:
    """The smallest ‖row − x·right‖₁ over x: minimise Σt with −t ≤ row − x·right ≤ t."""
    rank, columns = right.shape
    cost = np.r_[np.zeros(rank), np.ones(columns)]
    sides = np.block([[right.T, -np.eye(columns)], [-right.T, -np.eye(columns)]])
    bounds = [(None, None)] * rank + [(0, None)] * columns
    return linprog(cost, A_ub=sides, b_ub=np.r_[row, -row], bounds=bounds).fun


@pytest.mark.parametrize("precision", [torch.float64, torch.float32])
@pytest.mark.parametrize("rank", [1, 4, 13])
def test_fixed_factor_comes_close_to_the_linear_program(rank, precision, monkeypatch):
    if precision == torch.float32:
        monkeypatch.setattr(irls, "SMALL", 0)
    a = gauss(10, 40, 16) + gross(11, 40, 16, 0.1, 10.0)
    basis = torch.linalg.qr(gauss(12, 16, rank)).Q
    fit = alternate(a, basis, 1.0, sweeps=100, both=False)
    assert torch.equal(fit.right, basis.T)
    optimum = sum(by_linear_program(row, fit.right.numpy()) for row in a.numpy())
    assert optimum * (1 - 1e-9) <= size(a - fit.left @ fit.right, 1.0) <= optimum * (1 + 1e-3)
    assert size(a - a @ basis @ basis.T, 1.0) > optimum * 1.02


def test_fixed_factor_comes_close_to_the_convex_optimum_at_other_powers():
    a = gauss(13, 20, 10) + gross(14, 20, 10, 0.1, 10.0)
    basis = torch.linalg.qr(gauss(15, 10, 3)).Q
    fit = alternate(a, basis, 1.4, sweeps=60, both=False)

    def loss(x, row):
        return (np.abs(row - basis.numpy() @ x) ** 1.4).sum()

    optimum = sum(minimize(loss, np.zeros(3), args=(row,), tol=1e-10).fun for row in a.numpy())
    assert fit.error**1.4 == pytest.approx(optimum, rel=1e-3)


def test_rank_one_of_three_columns_by_brute_force():
    """All directions on a fine grid of the sphere, with the exact ℓ1 regression on each."""
    angles = (torch.arange(180, dtype=torch.float64) + 0.5) * np.pi / 180
    one, two = (grid.flatten() for grid in torch.meshgrid(angles, angles, indexing="ij"))
    grid = torch.stack([one.sin() * two.cos(), one.sin() * two.sin(), one.cos()], dim=1)
    for seed in range(5):
        a = gauss(seed, 12, 1) @ gauss(seed + 20, 1, 3) + gross(seed + 40, 12, 3, 0.15, 5.0)
        a = a + 0.1 * gauss(seed + 60, 12, 3)
        steps = a[:, None, :] / grid  # the optimum fits one entry of the row exactly
        gaps = (a[:, None, None, :] - steps[..., None] * grid[None, :, None, :]).abs().sum(dim=-1)
        optimum = float(gaps.amin(dim=2).sum(dim=0).min())
        found = size(a - decompose(a, 1, sweeps=60).factors(1).dense(), 1.0)
        assert found <= 1.02 * optimum


@pytest.mark.parametrize("power", [1.0, 1.5])
@pytest.mark.parametrize("small", [irls.SMALL, 0])
def test_objective_never_rises(power, small, monkeypatch):
    monkeypatch.setattr(irls, "SMALL", small)
    monkeypatch.setattr(irls, "BLOCK", 2000)
    a = spectrum(20, 300, 24) + gross(21, 300, 24, 0.02, 5.0)
    fit = alternate(a, torch.linalg.qr(gauss(22, 24, 6)).Q, power, sweeps=25, tolerance=0)
    history = torch.tensor(fit.history, dtype=torch.float64)
    assert len(history) == 50
    assert (history.diff() <= 1e-12 * history[:-1]).all()
    assert history[-1] < 0.8 * history[0]
    assert fit.error == pytest.approx(size(a - fit.left @ fit.right, power), rel=1e-9)
    gram = fit.right @ fit.right.T
    torch.testing.assert_close(gram, torch.eye(6).double(), rtol=0, atol=1e-10)


def test_rows_that_a_step_would_make_worse_are_left_unchanged(monkeypatch):
    a = gauss(23, 40, 8) + gross(24, 40, 8, 0.1, 10.0)
    steps = irls._steps
    monkeypatch.setattr(irls, "_steps", lambda residual, *rest: -9 * steps(residual, *rest))
    basis = torch.linalg.qr(gauss(25, 8, 3)).Q
    fit = alternate(a, basis, 1.0, sweeps=5, tolerance=0)
    torch.testing.assert_close(fit.left @ fit.right, a @ basis @ basis.T)
    assert (torch.tensor(fit.history).diff() <= 0).all()


def test_single_precision_and_blocks_change_little(monkeypatch):
    a = spectrum(30, 500, 32) + gross(31, 500, 32, 0.02, 3.0)
    plain = decompose(a, 8).info["error"]
    monkeypatch.setattr(irls, "SMALL", 0)
    monkeypatch.setattr(irls, "BLOCK", 3000)
    assert decompose(a, 8).info["error"] == pytest.approx(plain, rel=2e-3)


def test_start_best_is_the_better_of_both():
    a = spectrum(40, 300, 20)
    a[:9] *= 30
    errors = {start: decompose(a, 5, start=start).info["error"] for start in ("svd", "ellipsoid")}
    best = decompose(a, 5).info
    assert best["error"] == min(errors.values())
    assert errors[best["start"]] == best["error"]
    assert errors["svd"] != errors["ellipsoid"]


def test_wrong_input():
    a = gauss(50, 20, 6)
    for rank in (0, 7):
        with pytest.raises(LowRankError, match=r"rank \d of a 20x6 matrix is not in 1\.\.6"):
            decompose(a, rank)
    with pytest.raises(LowRankError, match="p = 2"):
        make_method("irls", p=2)
    with pytest.raises(LowRankError, match="for rank 3, not 4"):
        decompose(a, 3, sweeps=1).factors(4)
