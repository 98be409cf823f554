"""Row-robust PCA against brute force, scikit-learn and known subspaces."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.robust.row_robust import nearest_subspace
from lowrank_bench.methods import make_method
from lowrank_bench.problem import Problem


def gauss(seed: int, rows: int, columns: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def svd(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :rank] * s[:rank] @ v[:rank]


def size(error: torch.Tensor, q: float = 1.0) -> float:
    peak = float(error.abs().max()) or 1.0
    return float(torch.linalg.vector_norm(error / peak, dim=1).pow(q).sum()) ** (1 / q) * peak


def decompose(matrix: torch.Tensor, rank: int, **params):
    return make_method("l21", **params).decompose(Problem(matrix, rank=rank))


def with_far_rows(seed: int, columns: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows in a subspace, of which one in ten is an outlier; and a basis of the subspace."""
    basis = torch.linalg.qr(gauss(seed, columns, rank)).Q
    rows = gauss(seed + 1, 200, rank) @ basis.T
    rows[::10] = 5 * gauss(seed + 2, 20, columns)
    return rows, basis


MATRICES = {
    "plain": lambda n, d: gauss(0, n, d),
    "duplicates": lambda n, d: gauss(1, 1, d).repeat(n, 1) * (1 + torch.arange(n)[:, None] % 3),
    "zeros": lambda n, d: torch.zeros(n, d, dtype=torch.float64),
    "constant": lambda n, d: torch.full((n, d), 3.0, dtype=torch.float64),
    "deficient": lambda n, d: gauss(2, n, 2) @ gauss(3, 2, d),
    "heavy": lambda n, d: gauss(4, n, d) / gauss(5, n, 1).abs(),
    "zero rows": lambda n, d: gauss(6, n, d) * (torch.arange(n)[:, None] % 2),
    "far away": lambda n, d: gauss(7, n, d) + 50,
}


@settings(deadline=None, max_examples=80)
@given(
    kind=st.sampled_from(sorted(MATRICES)),
    rows=st.integers(1, 30),
    columns=st.integers(1, 12),
    rank=st.integers(1, 12),
    power=st.sampled_from([1.0, 1.3, 1.9]),
    magnitude=st.sampled_from([1e-100, 1.0, 1e100]),
    center=st.booleans(),
)
def test_error_is_never_above_that_of_the_svd(kind, rows, columns, rank, power, magnitude, center):
    a = MATRICES[kind](rows, columns) * magnitude
    rank = min(rank, rows, columns)
    found = decompose(a, rank, q=power, center=center).factors(rank)
    assert found.left.shape == (rows, rank)
    gram = found.right @ found.right.T
    torch.testing.assert_close(gram, torch.eye(rank).double(), rtol=0, atol=1e-10)
    allowed = size(a - svd(a, rank), power) + 1e-11 * size(a, power)
    assert size(a - found.dense(), power) <= allowed


@pytest.mark.parametrize("start", ["svd", "ellipsoid", "best"])
def test_outlier_rows_do_not_move_the_subspace(start):
    for seed in range(3):
        a, basis = with_far_rows(seed, 20, 4)
        right = decompose(a, 4, start=start).factors(4).right
        torch.testing.assert_close(right.T @ right, basis @ basis.T, rtol=0, atol=1e-5)
        pulled = torch.linalg.svd(a).Vh[:4]
        assert (pulled.T @ pulled - basis @ basis.T).norm() > 1


def test_center_finds_a_subspace_that_misses_the_origin():
    a, basis = with_far_rows(5, 12, 3)
    point = 3 * gauss(9, 1, 12)[0]
    found = decompose(a + point, 3, center=True).factors(3)
    torch.testing.assert_close(found.right.T @ found.right, basis @ basis.T, rtol=0, atol=1e-4)
    inside = (found.bias - point) @ basis @ basis.T
    torch.testing.assert_close(found.bias - point, inside, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.dense()[1], (a + point)[1], rtol=0, atol=1e-4)
    kept = sum(tensor.numel() for tensor in found.tensors().values())
    method = make_method("l21", center=True)
    assert method.n_parameters(3, *a.shape) == kept == 3 * (200 + 12) + 12
    assert make_method("l21").n_parameters(3, *a.shape) == 3 * (200 + 12)


def test_near_q2_it_equals_principal_component_analysis():
    a = gauss(10, 300, 8) * torch.arange(1, 9) + 5
    found = decompose(a, 3, q=1.999, center=True).factors(3).dense()
    pca = PCA(3).fit(a.numpy())
    expected = pca.inverse_transform(pca.transform(a.numpy()))
    np.testing.assert_allclose(found.numpy(), expected, atol=0.02)
    assert size(a - torch.from_numpy(expected)) > 100


@pytest.mark.parametrize("q", [1.0, 1.5])
def test_lines_in_the_plane_by_brute_force(q):
    angles = torch.linspace(0, np.pi, 20001, dtype=torch.float64)
    normals = torch.stack([-angles.sin(), angles.cos()])
    for seed in range(10):
        a = gauss(seed, 40, 2) * torch.tensor([2.0, 0.5])
        a[:3] *= 10
        optimum = float((a @ normals).abs().pow(q).sum(dim=0).min()) ** (1 / q)
        found = decompose(a, 1, q=q)
        error = size(a - found.factors(1).dense(), q)
        assert found.info["error"] == pytest.approx(error, rel=1e-9)
        assert optimum * (1 - 1e-4) <= error <= optimum * (1 + 1e-2)


def test_a_better_start_is_kept():
    """The smoothed objective of the first step moves away from the subspace of most rows."""
    a, basis = with_far_rows(15, 20, 4)
    start = size(a - a @ basis @ basis.T)
    one, many = (nearest_subspace(a, basis, 1.0, steps=steps) for steps in (1, 30))
    assert one.error == pytest.approx(start, rel=1e-12)
    assert torch.equal(one.basis, basis)
    assert many.error <= start * (1 + 1e-12)


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("q", [1.0, 1.6])
def test_objective_never_rises(q, center):
    a, _ = with_far_rows(20, 15, 4)
    a = a + 0.1 * gauss(23, 200, 15)
    first = torch.linalg.qr(gauss(24, 15, 4)).Q
    found = nearest_subspace(a, first, q, center=center)
    history = torch.tensor(found.history, dtype=torch.float64)
    assert len(history) == 2 * found.steps > 4
    assert (history.diff() <= 1e-12 * history[:-1]).all()
    assert found.error < 0.9 * size(a - a @ first @ first.T, q)


def test_rotation_of_the_columns_changes_nothing():
    a = gauss(30, 100, 9) / gauss(31, 100, 1).abs()
    turn = torch.linalg.qr(gauss(32, 9, 9)).Q
    here, there = (decompose(x, 3).factors(3).dense() for x in (a, a @ turn))
    torch.testing.assert_close(here @ turn, there, rtol=0, atol=1e-6 * float(a.abs().max()))


def test_wrong_input():
    a = gauss(40, 20, 6)
    with pytest.raises(LowRankError, match=r"rank 7 of a 20x6 matrix is not in 1\.\.6"):
        decompose(a, 7)
    with pytest.raises(LowRankError, match="q = 2"):
        make_method("l21", q=2)
