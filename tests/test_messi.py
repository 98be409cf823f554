"""The methods messi and partition_svd: budgets, controls and what is stored on disk."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.clustering.partition import PartitionedProjection, leading_vectors
from lowrank_bench.linalg.factors import ClusteredFactors
from lowrank_bench.methods import make_method
from lowrank_bench.problem import Problem


def gauss(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def decompose(name: str, a: torch.Tensor, rank: int | None = None, **params):
    method = make_method(name, **params)
    return method.decompose(Problem(matrix=a, rank=rank))


def error(a: torch.Tensor, factors: ClusteredFactors) -> float:
    """Σ distance² by the definition, one row at a time."""
    rows = [left @ factors.right[c] for left, c in zip(factors.left, factors.labels, strict=True)]
    return (a - torch.stack(rows)).square().sum().item()


def svd_error(a: torch.Tensor, rank: int) -> float:
    return float((np.linalg.svd(a.numpy(), compute_uv=False)[rank:] ** 2).sum())


@pytest.mark.parametrize("name", ["messi", "partition_svd"])
def test_budget_of_the_papers_example(name):
    """20x10, k = 2, j = 3 keeps as many numbers as an SVD of rank 4 (figure 3)."""
    method = make_method(name, **{"messi": {"k": 2}, "partition_svd": {"parts": 2}}[name])
    assert method.n_parameters(3, 20, 10) == 120 == make_method("svd").n_parameters(4, 20, 10)
    factors = method.decompose(Problem(matrix=gauss(0, 20, 10), rank=3)).factors(3)
    assert factors.n_parameters == 120
    assert factors.index_bits == 20
    assert factors.shape == (20, 10)


@pytest.mark.parametrize("name", ["messi", "partition_svd"])
@pytest.mark.parametrize(("count", "expected"), [(2, 511), (5, 477), (10, 429)])
def test_rank_for_a_compression_of_30_percent(name, count, expected):
    method = make_method(name, **{"k" if name == "messi" else "parts": count})
    assert method.rank_for(30522, 768, 0.30) == expected


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(2, 60),
    columns=st.integers(2, 12),
    k=st.integers(1, 6),
    compression=st.floats(0.01, 0.9),
)
def test_every_offered_budget_can_be_met(rows, columns, k, compression):
    method = make_method("messi", k=k, restarts=2, steps=2)
    a = gauss(1, rows, columns)
    try:
        rank = method.rank_for(rows, columns, compression)
    except LowRankError:
        assert rows + k * columns > (1 - compression) * rows * columns
        return
    factors = method.decompose(Problem(matrix=a, rank=rank)).factors(rank)
    assert factors.n_parameters <= (1 - compression) * rows * columns * (1 + 1e-9)
    assert method.n_parameters(rank + 1, rows, columns) > (1 - compression) * rows * columns


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0])
def test_messi_delivers_what_it_reports(power):
    a = gauss(2, 200, 12)
    found = decompose("messi", a, 3, k=3, q=power, restarts=3)
    factors = found.factors(3)
    distances = (a - factors.dense()).norm(dim=1)
    assert found.info["cost"] == pytest.approx(distances.pow(power).sum().item(), rel=1e-9)
    assert found.info["label_bits"] == 400 == factors.index_bits
    assert len(found.info["restart_costs"]) == 3
    assert min(found.info["restart_costs"]) == pytest.approx(found.info["cost"], rel=1e-4)
    for c in range(3):
        gram = factors.right[c] @ factors.right[c].T
        torch.testing.assert_close(gram, torch.eye(3).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(factors.dense(50, 70), factors.dense()[50:70])


def test_one_subspace_is_the_svd():
    a = gauss(3, 70, 9)
    for rank in (1, 5, 9):
        for name, params in (("messi", {"k": 1}), ("partition_svd", {"parts": 1})):
            factors = decompose(name, a, rank, **params).factors(rank)
            assert error(a, factors) == pytest.approx(svd_error(a, rank), rel=1e-9, abs=1e-18)


def test_wide_matrix_with_one_subspace():
    a = gauss(4, 6, 30)
    factors = decompose("messi", a, 4, k=1).factors(4)
    assert error(a, factors) == pytest.approx(svd_error(a, 4), rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_clusters_beat_the_controls_at_the_same_budget(seed):
    a = torch.cat([gauss(seed + c, 80, 4) @ gauss(seed + 9 + c, 4, 16) for c in range(3)])
    a = (a + 0.1 * gauss(seed + 20, 240, 16))[
        torch.randperm(240, generator=torch.Generator().manual_seed(seed + 99))
    ]
    ours = error(a, decompose("messi", a, 4, k=3).factors(4))
    for order in ("consecutive", "random"):
        control = decompose("partition_svd", a, parts=3, order=order).factors(4)
        assert ours < 0.1 * error(a, control)
    assert ours < 0.1 * svd_error(a, make_method("messi", k=3).n_parameters(4, 240, 16) // 256)


@pytest.mark.parametrize("seed", range(5))
def test_never_worse_than_consecutive_parts(seed):
    a = gauss(seed, 150, 10)
    control = decompose("partition_svd", a, parts=4).factors(3)
    found = decompose("messi", a, 3, k=4, restarts=3, steps=1, seed=seed)
    assert error(a, found.factors(3)) <= error(a, control)


def test_messi_refuses_budgets_that_save_nothing():
    a = gauss(5, 20, 10)
    assert decompose("messi", a, 4, k=5).factors(4).rank == 4
    for rank in (0, 5):
        with pytest.raises(
            LowRankError, match=rf"k = 5 on a 20x10 .* dimension 1\.\.4, not {rank}"
        ):
            decompose("messi", a, rank, k=5)
    with pytest.raises(LowRankError, match=r"dimension 1\.\.10, not 11"):
        decompose("messi", a, 11, k=1)
    with pytest.raises(LowRankError, match="needs a rank to decompose for"):
        decompose("messi", a, None)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("messi", {"k": 0}),
        ("messi", {"k": 256}),
        ("messi", {"q": 2.5}),
        ("messi", {"restarts": 0}),
        ("partition_svd", {"parts": 0}),
        ("partition_svd", {"order": "sorted"}),
    ],
)
def test_parameters_out_of_range(name, params):
    with pytest.raises(LowRankError, match=next(iter(params))):
        make_method(name, **params)


@pytest.mark.parametrize("order", ["consecutive", "random"])
def test_partition_svd_is_the_svd_of_each_part(order):
    a = gauss(6, 53, 8)
    found = decompose("partition_svd", a, parts=4, order=order, seed=3)
    sizes = found.labels.bincount(minlength=4)
    assert sizes.max() - sizes.min() <= 1
    ordered = bool((found.labels.diff() >= 0).all())
    assert ordered == (order == "consecutive")
    for rank in range(1, 9):
        expected = sum(svd_error(a[found.labels == part], rank) for part in range(4))
        assert error(a, found.factors(rank)) == pytest.approx(expected, rel=1e-9, abs=1e-18)
    for rank in (0, 9):
        with pytest.raises(LowRankError, match=rf"rank {rank} of a 53x8 matrix in 4 parts"):
            found.factors(rank)


def test_random_parts_depend_on_the_seed():
    a = gauss(7, 40, 5)
    labels = [
        decompose("partition_svd", a, parts=2, order="random", seed=s).labels for s in (0, 0, 1)
    ]
    assert torch.equal(labels[0], labels[1])
    assert not torch.equal(labels[0], labels[2])


def test_restored_from_tensors():
    a = gauss(8, 60, 7)
    for name, params in (("messi", {"k": 3}), ("partition_svd", {"parts": 3})):
        found = decompose(name, a, 2, **params)
        again = make_method(name).decomposition_class().from_tensors(a, found.tensors())
        here, there = found.factors(2), again.factors(2)
        assert torch.equal(here.labels, there.labels)
        torch.testing.assert_close(here.dense(), there.dense(), rtol=0, atol=1e-5)
    with pytest.raises(LowRankError, match="60x7 matrix, this one is 61x7"):
        PartitionedProjection.from_tensors(gauss(9, 61, 7), found.tensors())


def test_parts_with_few_rows_get_complete_bases():
    a = gauss(10, 5, 6)
    labels = torch.tensor([0, 0, 0, 2, 2])
    bases = leading_vectors(a, labels, 3, 4)
    gram = bases.transpose(1, 2) @ bases
    torch.testing.assert_close(gram, torch.eye(4).double().expand(3, -1, -1), rtol=0, atol=1e-12)
    kept = PartitionedProjection(a, labels, bases).factors(4)
    torch.testing.assert_close(kept.dense(), a)


def test_fewer_rows_than_parts():
    with pytest.raises(LowRankError, match="3 rows cannot be cut into 5 parts"):
        decompose("partition_svd", gauss(11, 3, 4))
