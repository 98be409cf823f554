"""Projective clustering against brute force, planted subspaces and the plain algorithm."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.clustering.projective import projective_clustering


def gauss(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def misfit(a: torch.Tensor, labels, bases: torch.Tensor, q: float = 2.0) -> torch.Tensor:
    """Distance^q of each row from the subspace of its label, by projecting one row at a time."""
    gaps = [row - bases[c] @ (bases[c].T @ row) for row, c in zip(a, labels, strict=True)]
    return torch.stack([gap.norm() ** q for gap in gaps])


def tails(a: torch.Tensor, labels: torch.Tensor, clusters: int, dimension: int) -> float:
    """The smallest Σ distance² for given labels, from the singular values of each part."""
    parts = [np.linalg.svd(a[labels == c].numpy(), compute_uv=False) for c in range(clusters)]
    return float(sum((values[dimension:] ** 2).sum() for values in parts))


def brute_force(a: torch.Tensor, dimension: int) -> float:
    rows = len(a)
    codes = torch.arange(2 ** (rows - 1))[:, None] >> torch.arange(rows)
    return min(tails(a, labels, 2, dimension) for labels in codes & 1)


def plain(a: torch.Tensor, labels: torch.Tensor, clusters: int, dimension: int, steps: int):
    """Lloyd's steps with the null space of each basis and the full SVD of each part."""
    rows, labels = a.numpy(), labels.numpy()
    for _ in range(steps):
        gaps = np.full((len(rows), clusters), np.inf)
        for c in range(clusters):
            if (labels == c).any():
                basis = np.linalg.svd(rows[labels == c], full_matrices=True)[2][:dimension]
                gaps[:, c] = np.linalg.norm(rows @ scipy.linalg.null_space(basis), axis=1)
        labels = gaps.argmin(axis=1)
    return tails(a, torch.from_numpy(labels), clusters, dimension)


def planted(seed: int, dimension: int, columns: int, size: int, clusters: int) -> torch.Tensor:
    parts = [
        gauss(seed + c, size, dimension) @ gauss(seed + 50 + c, dimension, columns)
        for c in range(clusters)
    ]
    return torch.cat(parts)


@pytest.mark.parametrize(("rows", "columns", "dimension", "seed"), [(8, 3, 1, 1), (8, 5, 2, 4)])
def test_reaches_the_optimum_of_tiny_instances(rows, columns, dimension, seed):
    a = gauss(seed, rows, columns)
    best = brute_force(a, dimension)
    costs = [projective_clustering(a, 2, dimension, seed=s).cost for s in range(100)]
    assert min(costs) >= best * (1 - 1e-9)
    assert sum(cost <= best * (1 + 1e-9) for cost in costs) >= 95


@settings(deadline=None, max_examples=80)
@given(
    seed=st.integers(0, 999),
    rows=st.integers(1, 40),
    columns=st.integers(1, 7),
    distinct=st.integers(1, 40),
    zeros=st.integers(0, 5),
    clusters=st.integers(1, 6),
    dimension=st.integers(1, 7),
    power=st.sampled_from([1.0, 1.5, 2.0]),
    magnitude=st.sampled_from([1e-150, 1.0, 1e150]),
)
def test_cost_never_rises(
    seed, rows, columns, distinct, zeros, clusters, dimension, power, magnitude
):
    clusters, dimension = min(clusters, rows), min(dimension, columns)
    a = gauss(seed, rows, columns)[torch.arange(rows) % distinct]
    a[:zeros] = 0
    found = projective_clustering(
        a * magnitude, clusters, dimension, q=power, restarts=2, seed=seed, tolerance=0
    )
    scale = magnitude**power
    ceiling = float(a.norm(dim=1).pow(power).sum()) * 1e-10
    costs = np.array(found.costs) / scale
    assert (np.diff(costs) <= ceiling).all()
    exact = misfit(a, found.labels, found.bases, power).sum().item()
    assert found.cost / scale == pytest.approx(exact, rel=1e-6, abs=ceiling)
    assert found.cost / scale <= costs[-1] + ceiling
    assert min(found.restart_costs) / scale == pytest.approx(costs[-1], rel=1e-9, abs=ceiling)
    identity = torch.eye(dimension).double().expand(clusters, -1, -1)
    gram = found.bases.transpose(1, 2) @ found.bases
    torch.testing.assert_close(gram, identity, rtol=0, atol=1e-12)
    assert found.labels.dtype == torch.int64
    assert 0 <= found.labels.min() <= found.labels.max() < clusters
    if power == 2:
        least = tails(a, found.labels, clusters, dimension)
        assert found.cost / scale == pytest.approx(least, rel=1e-6, abs=ceiling)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 999), distinct=st.integers(1, 4), power=st.sampled_from([1.0, 2.0]))
def test_empty_clusters_take_the_worst_rows(seed, distinct, power):
    """Two empty clusters of dimension 2 have room for four distinct rows."""
    a = gauss(seed, distinct, 7)[torch.arange(30) % distinct]
    start = torch.zeros(30, dtype=torch.int64)
    found = projective_clustering(a, 3, 2, q=power, starts=[start], tolerance=0)
    assert found.cost <= 1e-12 * a.norm(dim=1).pow(power).sum()


def test_every_row_ends_at_its_nearest_subspace():
    a = gauss(3, 500, 20)
    for dimension in (4, 15):
        found = projective_clustering(a, 4, dimension, restarts=2, tolerance=0, steps=500)
        assert found.converged
        labels = [torch.full((500,), c) for c in range(4)]
        gaps = torch.stack([misfit(a, c, found.bases) for c in labels], dim=1)
        assert (gaps.argmin(dim=1) == found.labels).all()


@pytest.mark.parametrize(("dimension", "columns", "clusters"), [(3, 12, 4), (9, 12, 2)])
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_planted_subspaces_are_recovered(dimension, columns, clusters, power):
    a = planted(5, dimension, columns, 60, clusters)
    found = projective_clustering(a, clusters, dimension, q=power, restarts=10, steps=200)
    distances = misfit(a, found.labels, found.bases, 1.0)
    assert distances.max() <= 1e-9 * a.norm(dim=1).max()
    truth = torch.arange(clusters).repeat_interleave(60)
    assert len(set(zip(truth.tolist(), found.labels.tolist(), strict=True))) == clusters


@pytest.mark.parametrize("dimension", [5, 12, 20])
def test_no_worse_than_the_plain_algorithm(dimension):
    scale = torch.arange(1, 25) ** -0.5
    for seed in range(4):
        a = gauss(seed, 600, 24) * scale
        a[:200] = a[:200].flip(1)
        start = torch.randperm(600, generator=torch.Generator().manual_seed(seed)) % 4
        for steps in (1, 5, 60):
            found = projective_clustering(a, 4, dimension, steps=steps, starts=[start], tolerance=0)
            assert found.cost <= plain(a, start, 4, dimension, steps) * (1 + 1e-9)


def test_one_cluster_is_the_svd():
    a = gauss(6, 80, 10)
    values = np.linalg.svd(a.numpy(), compute_uv=False)
    for dimension in (1, 4, 10):
        found = projective_clustering(a, 1, dimension, restarts=1)
        expected = (values[dimension:] ** 2).sum()
        assert found.cost == pytest.approx(expected, rel=1e-9, abs=1e-20)


def test_outlier_rows_count_less_with_a_smaller_power():
    """Most rows lie on two lines, a few are outliers: q = 1 finds the lines, q = 2 does not."""
    a = planted(7, 1, 6, 100, 2)
    a = torch.cat([a, 10 * gauss(8, 6, 6)])
    start = torch.arange(len(a)) // 100 % 2
    residuals = []
    for power in (1.0, 2.0):
        found = projective_clustering(a, 2, 1, q=power, starts=[start], steps=500, tolerance=0)
        residuals.append(misfit(a, found.labels, found.bases, 1.0)[:200].sum().item())
    assert residuals[0] < 1e-3 * residuals[1]


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_weights_act_like_repeated_rows(power):
    a = gauss(9, 200, 25)
    generator = torch.Generator().manual_seed(0)
    copies = torch.randint(0, 4, (200,), generator=generator)
    start = torch.randperm(200, generator=generator) % 3
    options = {"q": power, "steps": 15, "tolerance": 0}
    here = projective_clustering(a, 3, 6, weights=copies, starts=[start], **options)
    repeated, labels = (x.repeat_interleave(copies, dim=0) for x in (a, start))
    there = projective_clustering(repeated, 3, 6, starts=[labels], **options)
    assert here.cost == pytest.approx(there.cost, rel=1e-9)
    assert (here.labels.repeat_interleave(copies) == there.labels).all()
    ones = projective_clustering(a, 3, 6, starts=[start], **options)
    assert here.cost != pytest.approx(ones.cost, rel=1e-3)


def test_order_of_rows_does_not_matter_for_a_given_start():
    a, start = gauss(10, 300, 20), torch.arange(300) % 3
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    here = projective_clustering(a, 3, 5, starts=[start])
    there = projective_clustering(a[order], 3, 5, starts=[start[order]])
    assert here.cost == pytest.approx(there.cost, rel=1e-9)
    assert (here.labels[order] == there.labels).all()


def test_seeds_decide_the_starts_and_nothing_else():
    a = gauss(11, 300, 15)
    one, same, other = (projective_clustering(a, 4, 4, seed=s, restarts=3) for s in (1, 1, 2))
    assert one.restart_costs == same.restart_costs
    assert (one.labels == same.labels).all()
    assert torch.equal(one.bases, same.bases)
    assert one.restart_costs != other.restart_costs
    assert len(one.restart_costs) == 3


def test_the_best_start_is_kept():
    a = planted(12, 2, 10, 50, 3)
    good, bad = torch.arange(150) // 50, torch.arange(150) % 3
    found = projective_clustering(a, 3, 2, starts=[bad, good, bad], steps=1)
    assert found.restart_costs[0] == found.restart_costs[2] > 1
    assert found.cost < 1e-20
    assert (found.labels == good).all()


def test_rows_of_very_different_lengths():
    """Directions decide, so short rows find their subspace as well as long ones do."""
    a = planted(13, 2, 8, 40, 2)
    lengths = torch.tensor([1e-60, 1e-20, 1.0, 10.0], dtype=torch.float64).repeat(20)
    truth = torch.arange(80) // 40
    start = truth.clone()
    start[lengths < 1] = 0
    found = projective_clustering(a * lengths[:, None], 2, 2, starts=[start], tolerance=0)
    assert (found.labels == truth).all()


def test_wrong_input():
    a = gauss(14, 6, 4)
    wrong = [
        ((7, 2), {}, "7 clusters of 6 rows"),
        ((0, 2), {}, "0 clusters of 6 rows"),
        ((2, 5), {}, "dimension 5 are not possible in 4 columns"),
        ((2, 0), {}, "dimension 0"),
        ((2, 2), {"q": 0.5}, "1 <= q <= 2"),
        ((2, 2), {"q": float("nan")}, "1 <= q <= 2"),
        ((2, 2), {"steps": 0}, "at least one"),
        ((2, 2), {"weights": torch.ones(5)}, "6 finite numbers"),
        ((2, 2), {"weights": -torch.ones(6)}, "6 finite numbers"),
        ((2, 2), {"starts": [torch.full((6,), 2)]}, r"labels in 0\.\.1"),
    ]
    for arguments, options, message in wrong:
        with pytest.raises(LowRankError, match=message):
            projective_clustering(a, *arguments, **options)
    a[3, 3] = float("inf")
    with pytest.raises(LowRankError, match="finite"):
        projective_clustering(a, 2, 2)
