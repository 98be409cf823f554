"""PFP draws channels without bias, in the wanted number."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowrank_bench.prune.draw import calibrated, draw, inclusion, pivotal
from lowrank_bench.prune.sample_size import expected_distinct

torch.set_num_threads(1)


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 10**6), channels=st.integers(2, 30), data=st.data())
def test_random_samples_are_reweighted_by_the_formula(seed, channels, data):
    rng = np.random.default_rng(seed)
    chances = rng.exponential(size=channels) ** 2
    chances[rng.random(channels) < 0.1] = 0
    chances[0] = 1
    chances /= chances.sum()
    distinct = data.draw(st.integers(1, channels))
    positive = int((chances > 0).sum())
    kept, factors = draw(chances, distinct, "random", rng)
    assert 1 <= len(set(kept)) == len(kept) <= distinct
    if distinct < positive:
        size = calibrated(chances, distinct)
        assert expected_distinct(chances, size + 1) > distinct
        assert (factors @ chances[kept]) == pytest.approx(1)  # Σ n_i/m'
    kept, factors = draw(chances, distinct, "mixed", rng)
    assert 1 <= len(set(kept)) == len(kept) <= distinct
    if distinct < positive:
        certain = set(np.flatnonzero(chances >= 1 / calibrated(chances, distinct)))
        # Were as many as are wanted certain, the others would never be drawn: that was the bias.
        assert certain <= set(kept) or len(certain) >= distinct
        if len(certain) < distinct:
            assert all(f == 1 for i, f in zip(kept, factors, strict=True) if i in certain)
    kept, factors = draw(chances, distinct, "deterministic", rng)
    assert sorted(chances[kept]) == sorted(np.sort(chances)[::-1][:distinct])
    assert (factors == 1).all()


CHANCES = {
    "plain": [0.4, 0.3, 0.2, 0.1],
    "one large": [0.9, 0.04, 0.03, 0.02, 0.01],
    "one unused": [0.5, 0.0, 0.3, 0.2],
}


@pytest.mark.parametrize("variant", ["random", "mixed"])
@pytest.mark.parametrize("kind", CHANCES)
def test_sampling_is_unbiased_for_every_channel(kind, variant, monkeypatch):
    """The case of the fault: drawing again what was too large gave a mean factor of 0.853."""
    chances, rng, count = np.array(CHANCES[kind]), np.random.default_rng(0), 20_000
    positive = int((chances > 0).sum())
    distinct = max(1, positive - 1)
    factors, drawn = np.zeros((2, len(chances)))
    squares = np.zeros(len(chances))
    limit = calibrated(chances, distinct)  # once: the same for all draws
    monkeypatch.setattr("lowrank_bench.prune.draw.calibrated", lambda *_: limit)
    for _ in range(count):
        kept, scale = draw(chances, distinct, variant, rng)
        assert len(set(kept.tolist())) == len(kept) == distinct
        factors[kept] += scale
        squares[kept] += scale**2
        drawn[kept] += 1
    used = chances > 0
    assert not factors[~used].any()
    mean = factors[used] / count
    error = np.sqrt(np.maximum(squares[used] / count - mean**2, 0) / count)
    assert (np.abs(mean - 1) <= 4.5 * error + 1e-12).all()
    if variant == "random":
        share = inclusion(np.sort(chances[used])[::-1], distinct)
        np.testing.assert_allclose(np.sort(drawn[used])[::-1] / count, share, atol=0.02)
        # min(1, c p) with one c for all that may be left out.
        free = share < 1
        ratio = share[free] / np.sort(chances[used])[::-1][free]
        np.testing.assert_allclose(ratio, ratio[0])
        assert share.sum() == pytest.approx(distinct)


@settings(deadline=None, max_examples=200)
@given(
    sizes=st.lists(st.floats(1e-30, 1.0), min_size=1, max_size=40),
    seed=st.integers(0, 10**6),
    data=st.data(),
)
def test_samples_have_exactly_the_wanted_size(sizes, seed, data):
    sizes = np.sort(np.array(sizes))[::-1]
    count = data.draw(st.integers(0, len(sizes)))
    chances = inclusion(sizes, count)
    assert chances.sum() == pytest.approx(count)
    assert ((chances >= 0) & (chances <= 1)).all()
    taken = pivotal(chances, np.random.default_rng(seed))
    assert len(set(taken.tolist())) == len(taken) == count
    assert set(np.flatnonzero(chances == 1)) <= set(taken)


def test_samples_of_fixed_size_are_negatively_correlated():
    """What the bound rests on: two channels are drawn together no more often than apart."""
    chances, rng, count = np.array([0.8, 0.6, 0.5, 0.5, 0.4, 0.2]), np.random.default_rng(1), 20_000
    taken = np.zeros((count, len(chances)))
    for row in taken:
        row[pivotal(chances, rng)] = 1
    together = taken.T @ taken / count - np.outer(chances, chances)
    np.fill_diagonal(together, -1)
    assert together.max() < 0.01
    # The stated bound on the tail of Σ x_i/π_i, for shares x of a sum with x_i ≤ s_i.
    shares = chances / chances.sum()
    sums = taken @ (shares / chances * (np.arange(6) % 2) + shares / chances * 0.5)
    sums /= (shares * (np.arange(6) % 2) + shares * 0.5).sum()
    worst = 1.5 * shares / (shares * (np.arange(6) % 2) + shares * 0.5).sum()
    for error in (0.3, 0.6, 1.0):
        bound = 2 * np.exp(-(error**2) * chances.sum() / (worst.sum() * (2 + 2 * error / 3)))
        assert (np.abs(sums - 1) >= error).mean() <= bound
