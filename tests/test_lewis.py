"""Lewis weights against their definition, closed forms and the norms they bound."""

import json
from itertools import combinations, pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.ellipsoid import fixed_point, lewis
from lowrank_bench.linalg.ellipsoid.fixed_point import Evaluation, solve
from lowrank_bench.linalg.ellipsoid.lewis import lewis_weights
from lowrank_bench.linalg.gram import gram, numerical_rank, right_singular, squared_norms
from lowrank_bench.methods import make_method
from lowrank_bench.problem import Problem

POWERS = (1.0, 1.25, 1.5, 1.75, 2.0, 3.0, 3.999, 4.0, 6.0, 16.0)


def matrix(seed: int, rows: int, columns: int, spread: float = 0.0) -> torch.Tensor:
    """A Gaussian matrix whose row lengths range over 10^(±spread)."""
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
    x[:, :40] = torch.linalg.eigh(found.form).eigenvectors  # include the extreme directions
    ellipsoid = (found.root @ x).norm(dim=0)
    ratio = torch.linalg.vector_norm(a @ x, ord=power, dim=0) / ellipsoid
    bound = 40 ** (1 / power - 0.5)
    assert ratio.min() >= min(1, bound) - 1e-6
    assert ratio.max() <= max(1, bound) + 1e-6
    assert ratio.max() / ratio.min() > 1.001  # the bounds are not trivially met


@pytest.mark.parametrize("power", POWERS)
def test_closed_forms(power):
    """Copies of an orthogonal basis share its weight equally, whatever their lengths."""
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
    assert found.weights[-6:].min() > 0.1  # the longest rows dominate
    assert found.weights[:400].max() < 1e-20


def test_steep_columns():
    """Column lengths do not matter, even where the Gram matrix loses the short columns."""
    a = matrix(11, 300, 8)
    steep = a * 10 ** -torch.arange(8, dtype=torch.float64)
    for power in (1.0, 3.0):
        here, there = (lewis_weights(x, power, tolerance=1e-8).weights for x in (a, steep))
        torch.testing.assert_close(here, there, rtol=1e-5, atol=0)


def test_wrong_input():
    a = matrix(12, 20, 3)
    for power in (0.5, 16.1, float("nan"), -float("inf")):
        with pytest.raises(LowRankError, match="1 <= p <= 16 or p = inf"):
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
    monkeypatch.setattr(lewis, "_prepare", lambda *args, **kwargs: (args[3], 0))
    plain = lewis_weights(a, 1.0, tolerance=1e-9)
    torch.testing.assert_close(prepared.weights, plain.weights, rtol=1e-8, atol=0)


def with_far_rows(seed: int, rows: int, columns: int) -> torch.Tensor:
    a = matrix(seed, rows, columns) * torch.linspace(1, 5, columns).double()
    a[:3] *= 30
    return a


def extreme_ratios(a: torch.Tensor, form: torch.Tensor, power: float) -> tuple[float, float]:
    """The smallest and largest ‖Ax‖_p/√(xᵀMx) found by a search from many starts."""

    def objective(x: np.ndarray, sign: int) -> tuple[float, np.ndarray]:
        x = torch.from_numpy(x).requires_grad_()
        ratio = torch.linalg.vector_norm(a @ x, ord=power).log() - (x @ form @ x).log() / 2
        (slope,) = torch.autograd.grad(sign * ratio, x)
        return sign * ratio.item(), slope.numpy()

    starts = torch.cat([matrix(1, 20, a.shape[1]), a[:5], torch.linalg.eigh(form).eigenvectors.T])
    found = {
        sign: min(
            minimize(objective, x.numpy(), args=(sign,), jac=True, method="L-BFGS-B").fun
            for x in starts
        )
        for sign in (1, -1)
    }
    return float(np.exp(found[1])), float(np.exp(-found[-1]))


@pytest.mark.parametrize("power", [1.0, 2.5, 4.0, 8.0, 16.0])
@pytest.mark.parametrize("tolerance", [1e-9, 0.3])
def test_no_direction_leaves_the_sandwich(power, tolerance):
    """This also holds for inaccurate weights, up to the factor that the residual allows."""
    d = 6
    a = with_far_rows(20, 60, d)
    found = lewis_weights(a, power, tolerance=tolerance)
    slack = np.exp(found.residual * abs(power - 2) / power**2) * (1 + 1e-6)
    least, most = extreme_ratios(a, found.form, power)
    bound = d ** (1 / power - 0.5)
    assert min(1, bound) / slack <= least < most <= max(1, bound) * slack
    assert most / least > 1.1  # the search moved


def test_the_limit_is_the_smallest_ellipsoid_around_the_polytope():
    """Against all corners of {|Ax| ≤ 1} and the determinant reached by a general optimiser."""
    a = with_far_rows(21, 12, 3)
    found = lewis_weights(a, float("inf"), tolerance=1e-8)
    heights = (a @ torch.linalg.inv(found.form) * a).sum(dim=1)
    assert heights.max() <= 1 + 1e-7
    assert heights[found.weights > 1e-6].min() >= 1 - 1e-6
    assert found.weights.sum().item() == pytest.approx(3, rel=1e-9)
    corners = []
    for rows in combinations(range(12), 3):
        for signs in product((1.0, -1.0), repeat=3):
            x = torch.linalg.solve(a[list(rows)], torch.tensor(signs).double())
            if (a @ x).abs().max() <= 1 + 1e-9:
                corners.append(x)
    values = torch.stack([x @ found.form @ x for x in corners])
    assert len(corners) >= 8
    assert values.max() <= 3 * (1 + 1e-6)  # {Q ≤ d} contains the polytope
    assert values.max() >= 3 * (1 - 1e-6)  # and touches it

    def cost(logits: np.ndarray) -> float:
        w = 3 * np.exp(logits - logits.max())
        w /= w.sum() / 3
        return -np.linalg.slogdet(a.numpy().T @ (a.numpy() * w[:, None]))[1]

    best = min(minimize(cost, np.zeros(12), method="BFGS").fun, cost(np.zeros(12)))
    reached = -torch.linalg.slogdet(found.form).logabsdet.item()
    assert reached == pytest.approx(best, abs=1e-4)
    assert reached <= best + 1e-6


@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("magnitude", [1e-150, 1.0, 1e150])
def test_the_limit_on_degenerate_matrices(rows, magnitude):
    a = matrix(22, rows, 2) @ matrix(23, 2, 5)
    found = lewis_weights(a * magnitude, float("inf"), tolerance=1e-6)
    assert found.rank == min(rows, 2)
    assert found.weights.sum().item() == pytest.approx(found.rank, rel=1e-6)
    assert found.residual <= 1e-6
    line = lewis_weights(torch.tensor([[2.0], [-3.0], [1.0]]), float("inf"))
    assert line.weights.tolist() == [0.0, 1.0, 0.0]
    assert line.form.item() == pytest.approx(9, rel=1e-12)


def test_high_exponents_approach_the_limit():
    a = matrix(24, 200, 5)
    limit = lewis_weights(a, float("inf"), tolerance=1e-8).form
    gaps = [
        torch.linalg.matrix_norm(torch.linalg.solve(limit, lewis_weights(a, p).form) - torch.eye(5))
        for p in (4.0, 8.0, 16.0)
    ]
    assert gaps[0] > gaps[1] > gaps[2]


@pytest.mark.parametrize("power", [4.0, 10.0, 16.0])
def test_guaranteed_steps_alone_reach_the_weights(power):
    """The determinant grows at each step, as `solve` proves."""
    a = matrix(25, 40, 4, 0.3)
    expected = lewis_weights(a, power, tolerance=1e-10).weights
    values = []

    def evaluate(u):
        v = torch.exp((1 - 2 / power) * u)
        form = a.T @ (a * v[:, None])
        # the determinant is scaled to Σ v^{p/(p−2)} = d
        scale = 4 * (1 - 2 / power) * (u.logsumexp(0) - np.log(4))
        values.append((torch.linalg.slogdet(form).logabsdet - scale).item())
        heights = (a @ torch.linalg.inv(form) * a).sum(dim=1)
        return power / 2 * heights.log()

    point = torch.linspace(-5, 5, 40).double()
    for _ in range(400):
        point = point + fixed_point.damping_of(1 - power / 2) * (evaluate(point) - point)
    assert all(after >= before - 1e-9 for before, after in pairwise(values))
    assert values[-1] > values[0] + 1e-3
    torch.testing.assert_close(point.exp(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("power", [4.0, 16.0])
def test_solver_survives_useless_trial_steps(power, monkeypatch):
    a = matrix(26, 60, 5, 0.5)
    expected = lewis_weights(a, power, tolerance=1e-8).weights
    monkeypatch.setattr(fixed_point, "_mix", lambda history: history[-1][0] * 0)
    found = lewis_weights(a, power, tolerance=1e-8, limit=5000)
    torch.testing.assert_close(found.weights, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("steepness", [0.0, 2.0, 5.0, 7.0, 12.0])
def test_singular_values_against_numpy(steepness):
    """Even where the Gram matrix has lost them, and for rows of very different lengths."""
    a = matrix(27, 300, 20, 0.5) * 10 ** -torch.linspace(0, steepness, 20).double()
    values, vectors = right_singular(a)
    _, expected, rows_v = np.linalg.svd(a.numpy(), full_matrices=False)
    np.testing.assert_allclose(values.numpy(), expected, rtol=1e-5, atol=1e-14 * expected[0])
    apart = np.flatnonzero(expected[:-1] > 1.05 * expected[1:])[:5]
    overlap = np.abs(rows_v[apart] @ vectors.numpy()[:, apart]).diagonal()
    assert len(overlap) > 0
    np.testing.assert_allclose(overlap, 1, atol=1e-8)


def test_solver_steps_back_when_a_step_misleads():
    """It still converges for a contraction whose stated derivative is wrong."""
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


@pytest.mark.parametrize("power", [1.0, 5.0, float("inf")])
def test_method_with_the_mean_row_kept_separately(power):
    a = with_far_rows(28, 60, 5) + 7
    method = make_method("lp", p=power, center=True)
    factors = method.decompose(Problem(a)).factors(2)
    centred = a - a.mean(dim=0)
    form = lewis_weights(centred, power, tolerance=1e-7).form
    leading = torch.from_numpy(np.linalg.eigh(form.numpy())[1][:, -2:])
    expected = a.mean(dim=0) + centred @ leading @ leading.T
    far = (factors.dense() - expected).norm() / a.norm()
    assert far < 1e-2  # the method stops when the weights are accurate to a percent
    assert (factors.dense() - a).norm() == pytest.approx((expected - a).norm().item(), rel=1e-2)
    assert method.n_parameters(2, 60, 5) == factors.n_parameters == 2 * 65 + 5


def test_method_accepts_every_exponent_in_its_range_as_json():
    for value, label in ((1, "lp (p=1)"), (16, "lp (p=16)"), ("inf", "lp (p=inf)")):
        method = make_method("lp", p=value)
        assert method.label() == label
        stored = json.loads(json.dumps(method.model_dump(mode="json"), allow_nan=False))
        assert make_method("lp", **stored) == method
    for value in (0.99, 16.5, float("nan"), -float("inf")):
        with pytest.raises(LowRankError, match=r"p = .*Input should be from 1 to 16, or inf"):
            make_method("lp", p=value)
