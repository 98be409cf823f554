"""The ellipsoid method against exact containment, the Lewis ellipsoid and bounds from theory."""

import math

import numpy as np
import pytest
import torch

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.ellipsoid.design import optimal_design
from lowrank_bench.linalg.ellipsoid.lewis import lewis_weights
from lowrank_bench.linalg.ellipsoid.lowner import lowner_ellipsoid
from lowrank_bench.methods import make_method
from lowrank_bench.problem import Problem

INF = float("inf")
POWERS = (1.0, 1.3, 2.0, 3.0, 8.0, INF)


def body(seed: int) -> torch.Tensor:
    """Rows of random shape and columns of random scale; two of three also have outlier rows."""
    random = np.random.default_rng(seed)
    columns = int(random.integers(1, 13)) if seed % 10 else int(random.integers(13, 31))
    rows = columns + int(random.integers(0, 8 * columns))
    a = random.standard_t(3, size=(rows, columns)) * random.uniform(0.1, 10, columns)
    if seed % 3:
        a[: int(random.integers(1, 4))] *= 30
    turn = np.linalg.qr(random.normal(size=(columns, columns)))[0]
    return torch.from_numpy(a @ turn * 10.0 ** random.integers(-3, 4))


@pytest.mark.parametrize("block", range(24))
def test_agrees_with_the_lewis_ellipsoid(block):
    """Both contain the body, and the body contains a known part of both: 240 bodies, six exponents.

    From √Q ≤ ‖Ax‖_p ≤ γ√Q for the first and the sandwich of Lewis weights for the second, the
    generalised eigenvalues of one form against the other lie in an interval.
    """
    for seed in range(10 * block, 10 * block + 10):
        a, power = body(seed), POWERS[seed % len(POWERS)]
        outer, lewis = lowner_ellipsoid(a, power), lewis_weights(a, power)
        d = a.shape[1]
        assert outer.rank == lewis.rank == d
        assert outer.root.isfinite().all()
        assert 1 - 1e-9 <= outer.factor <= math.sqrt(d * (d + 1)) * (1 + 1e-9)
        turned = outer.root @ torch.linalg.inv(lewis.root)
        values = torch.linalg.svdvals(turned).square()
        wide = d ** abs(2 / power - 1)
        low, high = (1, wide) if power <= 2 else (1 / wide, 1)
        assert values.max() <= high * (1 + 1e-5)
        assert values.min() >= low / outer.factor**2 * (1 - 1e-5)


@pytest.mark.parametrize("power", POWERS)
def test_the_sandwich_on_random_and_extreme_directions(power):
    a = body(7)
    found = lowner_ellipsoid(a, power)
    x = torch.randn(a.shape[1], 400, generator=torch.Generator().manual_seed(0)).double()
    axes = torch.linalg.pinv(found.root)
    ascent = [axes, x, torch.linalg.pinv(a)]
    for _ in range(30):  # dual point of the subgradient: each step raises ‖Ax‖_p on the ellipsoid
        images = a @ x
        images = images / images.abs().amax(dim=0)
        high = min(power, 50.0)
        x = axes @ (axes.T @ (a.T @ (images.sign() * images.abs() ** (high - 1))))
        ascent.append(x)
    x = torch.cat(ascent, dim=1)
    ratio = torch.linalg.vector_norm(a @ x, ord=power, dim=0) / (found.root @ x).norm(dim=0)
    assert ratio.min() >= 1 - 1e-9
    assert ratio.max() <= found.factor * (1 + 1e-9)
    assert ratio.max() > 0.2 * found.factor or power > 2  # not met with a wide margin


def test_volume_is_at_least_the_minimum():
    """For p = ∞ against John's ellipsoid: one around the body is no smaller than one inside it."""
    for seed in (1, 4, 8):
        a = body(seed)
        d = a.shape[1]
        least = torch.linalg.slogdet(lewis_weights(a, INF).form / d).logabsdet
        found = torch.linalg.slogdet(lowner_ellipsoid(a, INF).form).logabsdet
        assert found <= least + 1e-6
        assert found >= least - d * math.log(d + 1)  # the inner test allows no more


HEXAGON = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.9]], dtype=torch.float64)


def corners() -> torch.Tensor:
    """The corners of {x : max |Ax| ≤ 1} for the hexagon, up to their signs."""
    high = 1 / 0.9 - 1
    return torch.tensor([[1.0, high], [high, 1.0], [1.0, -1.0]], dtype=torch.float64)


def area(form: torch.Tensor) -> float:
    """The area of {x : xᵀMx ≤ 1}, in units of π."""
    return float(torch.linalg.det(form)) ** -0.5


def test_john_scaled_is_not_lowner():
    """The ellipse of `lp` at p = ∞ is the largest inside; the least around is another one."""
    assert (HEXAGON @ corners().T).abs().amax(dim=0) == pytest.approx(1)
    lewis = lewis_weights(HEXAGON, INF)
    around = optimal_design(corners(), torch.ones(3).double(), 1e-9, 10_000)
    least = torch.linalg.inv(corners().T @ (corners() * around.weights[:, None]))
    assert area(lewis.form / 2) == pytest.approx(1.848, abs=1e-3)  # John's, scaled by √2
    assert area(least) == pytest.approx(1.240, abs=1e-3)
    circle = torch.linspace(0, 2 * math.pi, 1001).double()
    inside = torch.linalg.solve(lewis.root, torch.stack([circle.cos(), circle.sin()]))
    assert (HEXAGON @ inside).abs().max() <= 1 + 1e-6
    outer = lowner_ellipsoid(HEXAGON, INF)
    assert 1 <= area(outer.form) / area(least) <= outer.volume**2
    assert make_method("lowner", p=INF).decompose(Problem(HEXAGON)).info["volume"] == outer.volume


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("power", [1.0, INF])
def test_the_volume_is_within_its_factor_of_the_least(power, seed):
    """For p = 1 and ∞ in the plane the corners of the body are known, and with them the least."""
    random = np.random.default_rng(seed)
    a = torch.from_numpy(random.standard_t(3, size=(random.integers(2, 30), 2)))
    angles = torch.linspace(0, math.pi, 2001).double()[:-1]
    angles = angles[torch.from_numpy(random.permutation(2000))]
    directions = torch.stack([angles.cos(), angles.sin()])
    edge = (directions / torch.linalg.vector_norm(a @ directions, ord=power, dim=0)).T
    around = optimal_design(edge, torch.ones(len(edge)).double(), 1e-5, 50_000)
    assert around.excess <= 1e-4
    least = torch.linalg.inv(edge.T @ (edge * around.weights[:, None]))
    found = lowner_ellipsoid(a, power)
    assert 1 - 1e-3 <= area(found.form) / area(least) <= found.volume**2 * (1 + 1e-3)
    assert found.volume <= math.sqrt(3) * (1 + 1e-9)


def test_one_and_two_dimensions_by_brute_force():
    line = torch.tensor([[3.0], [-4.0]], dtype=torch.float64)
    for power, norm in ((1.0, 7.0), (2.0, 5.0), (INF, 4.0)):
        found = lowner_ellipsoid(line, power)
        assert norm / math.sqrt(2) - 1e-9 <= found.root.abs().item() <= norm * (1 + 1e-12)
    angles = torch.linspace(0, math.pi, 20001).double()
    circle = torch.stack([angles.cos(), angles.sin()])
    a = torch.tensor([[1.0, 0.2], [-0.3, 2.0], [50.0, 60.0]], dtype=torch.float64)
    for power in POWERS:
        found = lowner_ellipsoid(a, power)
        edge = circle / torch.linalg.vector_norm(a @ circle, ord=power, dim=0)
        lengths = (found.root @ edge).norm(dim=0)
        assert 1 / found.factor - 1e-9 <= lengths.min() <= lengths.max() <= 1 + 1e-9


def test_dependent_columns_zero_rows_and_scale():
    a = body(5)[:, :1] @ torch.ones(1, 3).double()
    a = torch.cat([a, torch.zeros(2, 3).double()])
    found = lowner_ellipsoid(a, 1.0)
    assert found.rank == 1
    nothing = lowner_ellipsoid(torch.zeros(4, 3), 1.0)
    assert nothing.rank == 0
    assert (nothing.form == torch.zeros(3, 3)).all()
    b = body(6)
    for scale in (1e-120, 1e120):
        scaled = lowner_ellipsoid(b * scale, 1.0)
        torch.testing.assert_close(scaled.root / scale, lowner_ellipsoid(b, 1.0).root)


def test_method_projects_as_lp_does():
    a = body(11)
    found = make_method("lowner").decompose(Problem(a))
    form = lowner_ellipsoid(a, 1.0).form
    _, vectors = np.linalg.eigh(form.numpy())
    leading = torch.from_numpy(vectors[:, ::-1][:, :2].copy())
    expected = a @ leading @ leading.T
    torch.testing.assert_close(found.factors(2).dense(), expected, rtol=1e-7, atol=1e-9)
    assert found.info["factor"] <= math.sqrt(a.shape[1] * (a.shape[1] + 1))
    wide = make_method("lowner").decompose(Problem(torch.eye(3, 9).double()))
    assert wide.basis.shape == (9, 3)


def test_refuses_what_it_cannot_do():
    with pytest.raises(LowRankError, match=r"at most 64 columns, not 65: .*; use the method lp"):
        lowner_ellipsoid(torch.ones(70, 65), 1.0)
    with pytest.raises(LowRankError, match="p >= 1"):
        lowner_ellipsoid(torch.ones(3, 2), 0.5)
    with pytest.raises(LowRankError, match="finite"):
        lowner_ellipsoid(torch.tensor([[1.0, float("nan")]]), 1.0)
    with pytest.raises(LowRankError, match=r"did not finish in 1 inner tests; use the method lp"):
        lowner_ellipsoid(body(10), 1.0, limit=1)
    for value in (0.5, 17, float("nan")):
        with pytest.raises(LowRankError, match=r"Input should be from 1 to 16, or inf"):
            make_method("lowner", p=value)
