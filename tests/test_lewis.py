"""Lewis weights against their definition, closed forms and the norms they bound."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg import lewis
from lowrank_bench.linalg.fixed_point import Evaluation, solve
from lowrank_bench.linalg.gram import gram, numerical_rank, right_singular, squared_norms
from lowrank_bench.linalg.lewis import lewis_weights

POWERS = (1.0, 1.25, 1.5, 1.75, 2.0, 3.0, 3.9, 3.999)


def matrix(seed: int, rows: int, columns: int, spread: float = 0.0) -> torch.Tensor:
    """A Gaussian matrix whose rows' lengths are 10^(±spread)."""
    generator = torch.Generator().manual_seed(seed)
    gauss = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return gauss * 10 ** (spread * torch.randn(rows, 1, generator=generator, dtype=torch.float64))


def by_definition(a: torch.Tensor, w: torch.Tensor, p: float) -> torch.Tensor:
    """(a_iᵀ M⁻¹ a_i)^{p/2} through the pseudoinverse of the weighted matrix."""
    live = w > 0
    scaled = (a[live] * w[live, None] ** (0.5 - 1 / p)).numpy()
    whitened = a.numpy() @ np.linalg.pinv(scaled, rcond=1e-11)
    return torch.from_numpy((whitened**2).sum(axis=1) ** (p / 2))


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 999),
    rows=st.integers(1, 60),
    columns=st.integers(1, 12),
    power=st.sampled_from(POWERS),
    spread=st.sampled_from([0.0, 0.3, 1.0]),
    magnitude=st.sampled_from([1e-150, 1e-9, 1.0, 1e9, 1e150]),
)
def test_fixed_point_and_trace(seed, rows, columns, power, spread, magnitude):
    a = matrix(seed, rows, columns, spread)
    found = lewis_weights(a * magnitude, power, tolerance=1e-8)
    assert found.residual <= 1e-8
    assert found.weights.sum().item() == pytest.approx(min(rows, columns), rel=1e-6)
    expected = by_definition(a, found.weights, power)
    torch.testing.assert_close(found.weights, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("power", POWERS)
def test_form_is_the_weighted_gram_matrix(power):
    a = matrix(0, 400, 150, 0.5)
    found = lewis_weights(a, power)
    expected = a.T @ (a * found.weights[:, None] ** (1 - 2 / power))
    torch.testing.assert_close(found.form, expected, rtol=1e-10, atol=1e-10)


def test_p2_is_leverage_and_the_plain_gram_matrix():
    a = matrix(1, 300, 40, 0.5)
    found = lewis_weights(a, 2.0)
    leverage = torch.linalg.qr(a).Q.square().sum(dim=1)
    torch.testing.assert_close(found.weights, leverage, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(found.form, a.T @ a, rtol=1e-12, atol=1e-10)
    assert found.iterations == 1


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("magnitude", [1e-150, 1e-3, 1e150])
def test_scaling_changes_nothing(power, magnitude):
    a = matrix(2, 120, 9, 0.5)
    here, there = (lewis_weights(x, power, tolerance=1e-9).weights for x in (a, a * magnitude))
    torch.testing.assert_close(here, there, rtol=1e-7, atol=0)


@pytest.mark.parametrize("power", [1.0, 1.5, 3.0])
def test_change_of_coordinates_changes_nothing(power):
    a, change = matrix(3, 90, 6), matrix(4, 6, 6)
    here, there = (lewis_weights(x, power, tolerance=1e-9).weights for x in (a, a @ change))
    torch.testing.assert_close(here, there, rtol=1e-6, atol=0)


@pytest.mark.parametrize("power", [1.0, 1.25, 1.5, 1.75, 3.0])
def test_form_sandwiches_the_norm(power):
    a = matrix(5, 3000, 40, 0.4)
    found = lewis_weights(a, power)
    x = matrix(6, 40, 300)
    x[:, :40] = torch.linalg.eigh(found.form).eigenvectors  # the extreme directions as well
    ellipsoid = (found.root @ x).norm(dim=0)
    ratio = torch.linalg.vector_norm(a @ x, ord=power, dim=0) / ellipsoid
    bound = 40 ** (1 / power - 0.5)
    assert ratio.min() >= min(1, bound) - 1e-6
    assert ratio.max() <= max(1, bound) + 1e-6
    assert ratio.max() / ratio.min() > 1.001  # the bounds are not trivially met


@pytest.mark.parametrize("power", POWERS)
def test_closed_forms(power):
    """Copies of an orthogonal basis share its weight equally, whatever the lengths."""
    lengths = torch.tensor([1e-6, 1.0, 1e5], dtype=torch.float64)
    copies = torch.tensor([1, 3, 10])
    a = torch.diag(lengths).repeat_interleave(copies, dim=0)
    found = lewis_weights(a, power, tolerance=1e-9)
    expected = (1 / copies.double()).repeat_interleave(copies)
    torch.testing.assert_close(found.weights, expected, rtol=1e-7, atol=0)
    two = lewis_weights(torch.tensor([[3.0], [1.0]], dtype=torch.float64), power, tolerance=1e-10)
    expected = torch.tensor([3.0, 1.0], dtype=torch.float64) ** power
    torch.testing.assert_close(two.weights, expected / expected.sum(), rtol=1e-8, atol=0)


@pytest.mark.parametrize("power", POWERS)
def test_rank_deficient_and_zero_rows(power):
    a = matrix(7, 80, 5) @ matrix(8, 5, 12)
    a[[0, 40, 79]] = 0
    found = lewis_weights(a, power, tolerance=1e-8)
    assert found.rank == 5
    assert found.weights.sum().item() == pytest.approx(5, abs=1e-6)
    assert (found.weights[[0, 40, 79]] == 0).all()
    inside = lewis_weights(a @ torch.linalg.svd(a).Vh[:5].T, power, tolerance=1e-8)
    torch.testing.assert_close(found.weights, inside.weights, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("power", [1.0, 1.5, 3.0])
def test_degenerate_shapes(power):
    ones = torch.ones(10, 4, dtype=torch.float64)
    assert lewis_weights(ones, power).weights.tolist() == pytest.approx([0.1] * 10, rel=1e-6)
    assert lewis_weights(ones[:1] * 7, power).weights.tolist() == pytest.approx([1.0], rel=1e-6)
    wide = lewis_weights(matrix(9, 4, 30), power)
    assert wide.weights.tolist() == pytest.approx([1.0] * 4, rel=1e-6)
    assert wide.root.shape == (4, 30)
    nothing = lewis_weights(torch.zeros(6, 3, dtype=torch.float64), power)
    assert nothing.rank == 0
    assert nothing.weights.tolist() == [0.0] * 6
    assert (nothing.form == torch.zeros(3, 3)).all()


@pytest.mark.parametrize("power", [1.0, 1.5, 1.9, 2.5])
def test_rows_of_very_different_lengths(power):
    a = matrix(10, 500, 6)
    exponents = torch.linspace(-150, 150, 500, dtype=torch.float64)
    found = lewis_weights(a * 10 ** exponents[:, None], power)
    assert found.weights.sum().item() == pytest.approx(6, rel=1e-6)
    assert torch.isfinite(found.weights).all()
    assert found.weights[-6:].min() > 0.1  # the longest rows decide
    assert found.weights[:400].max() < 1e-20


def test_steep_columns():
    """Lengths of columns do not matter, even where the Gram matrix loses the short ones."""
    a = matrix(11, 300, 8)
    steep = a * 10 ** -torch.arange(8, dtype=torch.float64)
    for power in (1.0, 3.0):
        here, there = (lewis_weights(x, power, tolerance=1e-8).weights for x in (a, steep))
        torch.testing.assert_close(here, there, rtol=1e-5, atol=0)


def test_wrong_input():
    a = matrix(12, 20, 3)
    for power in (0.5, 4.0, float("nan")):
        with pytest.raises(LowRankError, match="1 <= p < 4"):
            lewis_weights(a, power)
    a[4, 1] = float("nan")
    with pytest.raises(LowRankError, match="finite"):
        lewis_weights(a, 1.0)


def test_not_converged_is_an_error():
    with pytest.raises(LowRankError, match=r"stopped at residual .* after .* passes"):
        lewis_weights(matrix(13, 200, 10, 1.0), 1.0, tolerance=1e-9, limit=1)


def test_float32_preparation_does_not_change_the_result(monkeypatch):
    a = matrix(14, 500, 20, 0.7)
    prepared = lewis_weights(a, 1.0, tolerance=1e-9)
    monkeypatch.setattr(lewis, "_prepare", lambda rows, p, start, required: (start, 0))
    plain = lewis_weights(a, 1.0, tolerance=1e-9)
    torch.testing.assert_close(prepared.weights, plain.weights, rtol=1e-8, atol=0)


def test_solver_goes_back_when_a_step_misleads():
    """A contraction whose promised derivative is false still converges."""
    slope = 0.5

    def evaluate(u):
        return Evaluation(slope * torch.sin(3 * u) / 3 + 1, torch.full_like(u, 0.99))

    found = solve(evaluate, torch.linspace(-9, 9, 30).double(), slope, 1e-10, 200)
    assert found.converged
    gap = evaluate(found.point).image - found.point
    assert gap.abs().max() <= 1e-10


@settings(deadline=None, max_examples=25)
@given(rows=st.integers(0, 40), columns=st.integers(1, 300), seed=st.integers(0, 99))
def test_blocked_products(rows, columns, seed):
    a = matrix(seed, rows, columns)
    scale = matrix(seed + 1, rows, 1)[:, 0]
    scaled = a * scale[:, None]
    torch.testing.assert_close(gram(a, scale), scaled.T @ scaled)
    lower = matrix(seed + 2, columns, columns).tril()
    expected = (scaled @ lower.T).square().sum(dim=1)
    torch.testing.assert_close(squared_norms(a, lower, scale), expected)


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    decay=st.sampled_from([0.0, 0.5, 1.0]),
    magnitude=st.sampled_from([1e-150, 1.0, 1e150]),
)
def test_right_singular_vectors(rows, columns, decay, magnitude):
    small = min(rows, columns)
    spectrum = 10 ** (-decay * torch.arange(small, dtype=torch.float64))
    u, _ = torch.linalg.qr(matrix(0, rows, small))
    v, _ = torch.linalg.qr(matrix(1, columns, small))
    a = u * spectrum @ v.T
    values, vectors = right_singular(a * magnitude)
    assert vectors.shape == (columns, small)
    gram_v = vectors.T @ vectors
    torch.testing.assert_close(gram_v, torch.eye(small).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(values / magnitude, spectrum, rtol=1e-6, atol=1e-14)
    found = (a @ vectors).norm(dim=0)
    torch.testing.assert_close(found, spectrum, rtol=1e-6, atol=1e-14)
    expected = np.linalg.matrix_rank((a * magnitude).numpy())
    assert numerical_rank(values, rows, columns) in (expected - 1, expected, expected + 1)
