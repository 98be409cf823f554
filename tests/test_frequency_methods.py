"""Blocks, sparse combinations and row weights against brute force, numpy and scikit-learn."""

from itertools import combinations, pairwise, product

import numpy as np
import pytest
import torch
from sklearn.linear_model import orthogonal_mp_gram

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.factors import KEPT
from lowrank_bench.linalg.frequency.blocks import equal_cuts, geometric_cuts, weighted_blocks
from lowrank_bench.linalg.frequency.pursuit import combination, matching_pursuit
from lowrank_bench.linalg.frequency.row_use import smoothed_counts, table_frequency
from lowrank_bench.linalg.frequency.sparse_rows import _slopes, sparse_rows


def table(seed: int, rows: int, columns: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    gauss = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return gauss * 0.7 ** torch.arange(columns)


def zipf(rows: int, seed: int = 0) -> torch.Tensor:
    places = torch.randperm(rows, generator=torch.Generator().manual_seed(seed)).double()
    return 1 / (places + 3)


def lost(a: np.ndarray, w: np.ndarray, rank: int) -> float:
    """The smallest weighted error of a block: singular values of diag(√w) A beyond the rank."""
    return float((np.linalg.svd(a * np.sqrt(w)[:, None], compute_uv=False)[rank:] ** 2).sum())


@pytest.mark.parametrize("seed", range(6))
def test_blocks_lose_the_least_over_all_cuts_and_ranks(seed):
    rows, columns, cuts, budget = 24, 5, [0, 4, 9, 15, 24], 80 + 6 * seed
    a, w = table(seed, rows, columns), zipf(rows, seed)
    factors, _ = weighted_blocks(a, w, budget, cuts)
    order = np.argsort(-w.numpy(), kind="stable")
    best = np.inf
    for count in range(len(cuts) - 1):
        for inner in combinations(cuts[1:-1], count):
            blocks = [order[s:e] for s, e in pairwise([0, *inner, rows])]
            spare = budget - rows * 2 / 32 if inner else budget
            for ranks in product(range(1, columns + 1), repeat=len(blocks)):
                prices = (
                    min(r * (len(b) + columns), len(b) * columns)
                    for r, b in zip(ranks, blocks, strict=True)
                )
                if sum(prices) <= spare:
                    error = sum(
                        lost(
                            a[b].numpy(),
                            w[b].numpy(),
                            r if r * (len(b) + columns) < len(b) * columns else columns,
                        )
                        for r, b in zip(ranks, blocks, strict=True)
                    )
                    best = min(best, error)
    error = float((w[:, None] * (a - factors.dense()).square()).sum())
    assert factors.n_parameters + factors.index_bits / 32 <= budget
    assert error <= best + 2e-6 * float((w[:, None] * a.square()).sum())


def test_fixed_cuts_are_kept_and_a_small_budget_is_refused():
    a, w = table(0, 64, 6), zipf(64)
    factors, info = weighted_blocks(a, w, 300, equal_cuts(64, 4), free=False)
    assert info["block_rows"] == [16] * 4
    assert factors.labels.bincount().tolist() == [16] * 4
    heavy = w.argsort(descending=True)
    assert (factors.labels[heavy].diff() >= 0).all()  # blocks follow the weights
    with pytest.raises(LowRankError, match="budget"):
        weighted_blocks(a, w, 40, equal_cuts(64, 4), free=False)


def test_cuts():
    assert equal_cuts(10, 3) == [0, 3, 6, 10]
    for rows in (1, 2, 9, 30522):
        cuts = geometric_cuts(rows)
        assert cuts[0] == 0
        assert cuts[-1] == rows
        assert len(cuts) <= 17
        assert all(a < b for a, b in pairwise(cuts))


def plain_greedy(row: np.ndarray, atoms: np.ndarray, count: int) -> list[int]:
    """Choose atoms one by one, each time trying all of them by least squares in float64."""
    chosen: list[int] = []
    for _ in range(count):
        gaps = np.full(len(atoms), np.inf)
        for atom in set(range(len(atoms))) - set(chosen):
            basis = atoms[[*chosen, atom]].T
            gaps[atom] = np.sum((row - basis @ np.linalg.lstsq(basis, row, rcond=None)[0]) ** 2)
        chosen.append(int(gaps.argmin()))
    return chosen


def test_pursuit_chooses_like_a_plain_search_and_solves_least_squares_like_numpy():
    rows, atoms = table(1, 40, 12), table(2, 30, 12)
    indices, energies = matching_pursuit(rows, atoms, 6)  # few atoms: all of them compete
    for i in range(len(rows)):
        assert indices[i].tolist() == plain_greedy(rows[i].numpy(), atoms.numpy(), 6)
    counts = torch.arange(40) % 7
    values = combination(rows, torch.arange(40), atoms, indices, counts)
    huge = combination(1e200 * rows, torch.arange(40), 1e200 * atoms, indices, counts, 1e200)
    torch.testing.assert_close(huge, values, rtol=1e-6, atol=1e-9)
    for i, (count, solved) in enumerate(
        zip(counts.tolist(), values.split(counts.tolist()), strict=True)
    ):
        chosen = atoms[indices[i, :count].long()].numpy().T
        expected = np.linalg.lstsq(chosen, rows[i].numpy(), rcond=None)[0]
        np.testing.assert_allclose(solved.numpy(), expected, rtol=1e-6, atol=1e-8)
        gap = float(((rows[i].numpy() - chosen @ expected) ** 2).sum())
        assert energies[i, count].item() == pytest.approx(gap, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(("size", "flat"), [(60, 1.0), (1500, 1.0), (900, 0.9), (800, 0.97)])
def test_pursuit_is_about_as_good_as_the_one_by_one_pursuit_of_scikit_learn(size, flat):
    generator = torch.Generator().manual_seed(size)
    scale = flat ** torch.arange(48)
    rows, atoms = (torch.randn(n, 48, generator=generator).double() * scale for n in (40, size))
    _, energies = matching_pursuit(rows, atoms, 16)
    unit = (atoms / atoms.norm(dim=1, keepdim=True)).numpy()
    for count in (1, 4, 12, 16):
        codes = orthogonal_mp_gram(unit @ unit.T, unit @ rows.numpy().T, n_nonzero_coefs=count)
        gaps = ((rows.numpy().T - unit.T @ codes) ** 2).sum()
        assert float(energies[:, count].sum()) <= 1.1 * gaps


def test_dependent_and_zero_atoms_and_rows_end_in_least_squares():
    """Copies, zeros and a dictionary of low rank: no choice may raise the error or be NaN."""
    thin = table(7, 200, 3) @ torch.ones(3, 12).double()
    atoms = torch.cat([table(2, 5, 12).repeat(40, 1), torch.zeros(9, 12), thin]).double()
    rows = torch.cat([table(1, 20, 12), torch.zeros(2, 12), atoms[:3], 1e-30 * table(3, 2, 12)])
    indices, energies = matching_pursuit(rows.double(), atoms, 12)
    assert energies.isfinite().all()
    assert (energies.diff(dim=1) <= 0).all()
    rank = int(np.linalg.matrix_rank(atoms.numpy()))
    values = combination(
        rows.double(), torch.arange(len(rows)), atoms, indices, torch.full((len(rows),), rank)
    )
    fitted = (values.view(len(rows), rank, 1) * atoms[indices[:, :rank].long()]).sum(dim=1)
    assert ((rows - fitted).norm(dim=1) <= rows.norm(dim=1) * (1 + 1e-6)).all()
    assert (energies[22:25, 1] <= 1e-6 * energies[22:25, 0]).all()  # a row that is an atom


@pytest.mark.parametrize("seed", range(3))
def test_slopes_are_those_of_the_concave_hull_of_the_gains(seed):
    generator = torch.Generator().manual_seed(seed)
    gains = torch.rand(20, 9, generator=generator) * (torch.rand(20, 9, generator=generator) > 0.3)
    energies = 10 - torch.cat([torch.zeros(20, 1), gains.cumsum(dim=1)], dim=1)
    slopes = _slopes(energies)
    for gained, slope in zip((10 - energies.double()).numpy(), slopes.numpy(), strict=True):
        hull = [
            max(
                gained[i] + (gained[j] - gained[i]) * (k - i) / max(j - i, 1)
                for i in range(k + 1)
                for j in range(k, 10)
            )
            for k in range(10)
        ]
        np.testing.assert_allclose(np.diff(hull), slope, atol=1e-5)


def test_pursuit_stops_where_atoms_gain_too_little():
    rows, atoms = table(3, 50, 20), table(4, 60, 20)
    _, full = matching_pursuit(rows, atoms, 12)
    _, short = matching_pursuit(rows, atoms, 12, worth=torch.full((50,), 0.05))
    torch.testing.assert_close(short[:, :2], full[:, :2])
    assert (short[:, -1] >= full[:, -1] - 1e-5).all()
    assert short[:, -1].sum() > full[:, -1].sum()


@pytest.mark.parametrize("rank", [3, 6, 9])
def test_sparse_rows_keep_the_heaviest_rows_within_the_budget(rank):
    a, w = table(5, 300, 16), zipf(300, 5)
    budget = rank * 316
    factors, info = sparse_rows(a, w, budget)
    b, kept = factors.dense(), factors.terms == KEPT
    assert factors.n_parameters + factors.index_bits / 32 <= budget
    assert int(kept.sum()) == info["rows_kept"]
    assert w[kept].min() > w[~kept].max()
    assert torch.equal(b[kept], a[kept])
    # A least-squares fit is orthogonal to its error, so it is at most as long as the row.
    assert ((b * (a - b)).sum(dim=1).abs() <= 1e-6 * a.square().sum(dim=1)).all()


def test_rows_that_are_combinations_of_the_heaviest_are_found_exactly():
    generator = torch.Generator().manual_seed(0)
    rows, columns, heavy = 400, 24, 40
    a = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    for i in range(heavy, rows):
        one, two = torch.randperm(heavy, generator=generator)[:2]
        a[i] = 3 * a[one] - a[two]
    w = torch.where(torch.arange(rows) < heavy, 1.0, 0.1).double() + 1e-3 * zipf(rows)
    budget = heavy * columns + 3 * (rows - heavy) + rows // 4
    factors, info = sparse_rows(a, w, budget + 20, atoms=heavy)
    assert info["rows_kept"] >= heavy
    exact = (a - factors.dense()).norm(dim=1) < 1e-6
    assert exact.double().mean() > 0.95


def test_sparse_rows_refuse_a_budget_below_one_row():
    with pytest.raises(LowRankError, match="do not hold one"):
        sparse_rows(table(0, 100, 16), zipf(100), 30)


def test_the_table_reveals_the_use_of_rows_whose_order_says_nothing():
    rows = 4000
    true = 1 / (torch.arange(rows).double() + 20)
    a = table(6, rows, 8)
    a[:, 0] += true.log()  # training leaves its mark
    given = true.clone()
    odd = torch.arange(50)
    given[odd] = true[2000]  # frequent characters listed in an alphabet
    found = table_frequency(a, given)
    assert found.sum().item() == pytest.approx(1)
    assert (found > 0).all()
    share = given / given.sum()
    gain = found[odd].log() - share[odd].log()
    assert gain.mean() > 0.5
    assert (gain > 0).double().mean() > 0.9


def test_smoothed_counts():
    prior = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    counts = torch.tensor([0.0, 6.0, 2.0], dtype=torch.float64)
    expected = (counts + 0.25 * 8 * prior) / 10
    torch.testing.assert_close(smoothed_counts(counts, prior), expected)
    torch.testing.assert_close(smoothed_counts(0 * counts, prior), prior)
