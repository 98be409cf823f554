"""Bootstrap and paired tests against explicit resamples, enumeration and exact distributions."""

import itertools
import warnings

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from lowrank_bench.errors import LowRankError
from lowrank_bench.score import draws
from lowrank_bench.score.bootstrap import bootstrap, interval
from lowrank_bench.score.draws import generator, resample_blocks, swap_blocks
from lowrank_bench.score.metrics import METRICS
from lowrank_bench.score.paired_test import p_value, paired_test, permute

BINARY = ["accuracy", "f1", "matthews_correlation"]
SCORES = ["pearson", "spearmanr"]
CASES = [(BINARY, 2), (["accuracy", "matthews_correlation"], 4), (SCORES, 0)]


def truth_of(name, references, predictions):
    """Return a metric by scikit-learn or SciPy, 0 where it is undefined."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "accuracy":
            return sklearn.metrics.accuracy_score(references, predictions)
        if name == "f1":
            return sklearn.metrics.f1_score(references, predictions, zero_division=0)
        if name == "matthews_correlation":
            return sklearn.metrics.matthews_corrcoef(references, predictions)
        if name == "cosine_to_dense":
            return float(np.mean(predictions))
        if np.ptp(references) == 0 or np.ptp(predictions) == 0:
            return 0.0
        function = {"pearson": scipy.stats.pearsonr, "spearmanr": scipy.stats.spearmanr}[name]
        return function(references, predictions).statistic


def make(rng, n_labels, cells, n, distinct=40):
    """Return references and cells×n predictions that partly agree with them."""
    if n_labels:
        references = rng.integers(n_labels, size=n)
        noise = rng.integers(n_labels, size=(cells, n))
        return references, np.where(rng.random((cells, n)) < 0.6, references, noise)
    references = rng.integers(distinct, size=n) / 7
    scores = references + rng.normal(size=(cells, n))
    return references, np.round(scores * distinct / 8) / distinct * 8 + 1000


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 30), st.sampled_from([1, 3, 40]))
@pytest.mark.parametrize(("names", "n_labels"), CASES)
def test_a_resample_scores_like_the_repeated_examples(names, n_labels, seed, n, distinct):
    references, predictions = make(np.random.default_rng(seed), n_labels, 3, n, distinct)
    (block,) = resample_blocks(n, 12, np.random.default_rng(seed))
    values = bootstrap(
        names, predictions, references, n_labels, resamples=12, rng=np.random.default_rng(seed)
    )
    repeated = [np.repeat(np.arange(n), row.astype(int)) for row in block]
    for name in names:
        expected = [
            [truth_of(name, references[rows], cell[rows]) for rows in repeated]
            for cell in predictions
        ]
        np.testing.assert_allclose(values[name], expected, rtol=0, atol=1e-12)


def test_pearson_keeps_its_digits_when_one_outlier_carries_the_variance():
    rng = np.random.default_rng(1)
    references = rng.normal(size=9)
    predictions = rng.normal(size=(1, 9))
    predictions[0, 0] = 1e6
    (block,) = resample_blocks(9, 40, generator(0))
    values = bootstrap(["pearson"], predictions, references, 0, resamples=40, rng=generator(0))
    rows = [np.repeat(np.arange(9), row.astype(int)) for row in block]
    assert sum(0 not in drawn for drawn in rows) > 5
    expected = [truth_of("pearson", references[drawn], predictions[0, drawn]) for drawn in rows]
    # SciPy itself subtracts the outlier's resample mean: 1e6 leaves it ten digits.
    np.testing.assert_allclose(values["pearson"][0], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("names", "n_labels"), CASES)
def test_draws_do_not_depend_on_the_block_size(names, n_labels, monkeypatch):
    references, predictions = make(np.random.default_rng(2), n_labels, 7, 50)
    others = predictions[::-1]

    def both():
        drawn = bootstrap(names, predictions, references, n_labels, resamples=30, rng=generator(3))
        null = permute(
            names, predictions, others, references, n_labels, resamples=30, rng=generator(4)
        )
        return drawn, null

    whole = both()
    monkeypatch.setattr(draws, "BLOCK_ELEMENTS", 50 * 11)
    for first, second in zip(whole, both(), strict=True):
        for name in names:
            np.testing.assert_allclose(first[name], second[name], rtol=0, atol=1e-13)


def test_resamples_draw_n_from_n_and_swaps_are_fair():
    (counts,) = resample_blocks(40, 500, generator(0, "a"))
    assert (counts.sum(axis=1) == 40).all()
    # A count is Binomial(40, 1/40); its variance over 500·40 draws is known to a few percent.
    assert counts.var() == pytest.approx(1 - 1 / 40, abs=0.06)
    (swaps,) = swap_blocks(40, 500, generator(0, "a"))
    assert set(np.unique(swaps)) == {0, 1}
    assert swaps.mean() == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(swaps.size))


def test_generators_differ_by_name_and_seed():
    first = generator(0, "cola", "validation").random(4)
    assert (generator(0, "cola", "validation").random(4) == first).all()
    for other in (generator(1, "cola", "validation"), generator(0, "cola", "test")):
        assert (other.random(4) != first).all()
    assert (generator(0, "ab", "c").random(4) != generator(0, "a", "bc").random(4)).all()


def test_the_interval_of_accuracy_matches_the_binomial():
    right = np.arange(400) < 300
    drawn = bootstrap(
        ["accuracy"], right[None] * 1, np.ones(400, int), 2, resamples=4000, rng=generator(0)
    )
    exact = scipy.stats.binom(400, 0.75).ppf([0.025, 0.975]) / 400
    np.testing.assert_allclose(interval(drawn["accuracy"][0]), exact, atol=2.5 / 400)


@pytest.mark.parametrize(("names", "n_labels"), CASES)
@pytest.mark.parametrize("distinct", [2, 40])
def test_every_swap_scores_like_the_swapped_predictions(names, n_labels, distinct):
    references, predictions = make(np.random.default_rng(6), n_labels, 6, 11, distinct)
    first, second = predictions[:3], predictions[3:]
    values = permute(names, first, second, references, n_labels, resamples=40, rng=generator(1))
    (swaps,) = swap_blocks(11, 40, generator(1))
    for name in names:
        for pair, (a, b) in enumerate(zip(first, second, strict=True)):
            expected = [
                truth_of(name, references, np.where(swap > 0, b, a))
                - truth_of(name, references, np.where(swap > 0, a, b))
                for swap in swaps
            ]
            np.testing.assert_allclose(values[name][pair], expected, rtol=0, atol=1e-12)


def test_a_mean_cosine_is_drawn_like_its_examples():
    cosines = np.random.default_rng(8).uniform(-1, 1, (4, 23))
    name, none = "cosine_to_dense", np.zeros(23)
    drawn = bootstrap([name], cosines, none, 0, resamples=30, rng=generator(1))[name]
    (block,) = resample_blocks(23, 30, generator(1))
    expected = [[np.repeat(cell, row.astype(int)).mean() for row in block] for cell in cosines]
    np.testing.assert_allclose(drawn, expected, rtol=0, atol=1e-14)
    first, second = cosines[:2], cosines[2:]
    null = permute([name], first, second, none, 0, resamples=30, rng=generator(2))[name]
    (swaps,) = swap_blocks(23, 30, generator(2))
    for pair, (a, b) in enumerate(zip(first, second, strict=True)):
        swapped = [np.where(s > 0, b, a).mean() - np.where(s > 0, a, b).mean() for s in swaps]
        np.testing.assert_allclose(null[pair], swapped, rtol=0, atol=1e-14)


def exact_p_value(name, pairs, references):
    """Return the share of all 2^n swaps whose mean difference is at least as large as observed."""
    values = []
    for swap in itertools.product([False, True], repeat=references.size):
        differences = [
            truth_of(name, references, np.where(swap, b, a))
            - truth_of(name, references, np.where(swap, a, b))
            for a, b in pairs
        ]
        values.append(abs(np.mean(differences)))
    return np.mean(np.array(values) >= values[0] - 1e-10), values[0]


@pytest.mark.parametrize("name", list(METRICS))
def test_the_p_value_matches_all_swaps_over_two_seeds(name):
    n_labels = 2 if METRICS[name].kind == "classification" else 0
    references, predictions = make(np.random.default_rng(26), n_labels, 4, 8)
    pairs = [(predictions[0], predictions[1]), (predictions[2], predictions[3])]
    exact, difference = exact_p_value(name, pairs, references)
    test = paired_test(name, pairs, references, n_labels, resamples=20_000)
    assert 0.02 < exact < 0.9
    assert abs(test.difference) == pytest.approx(difference, abs=1e-12)
    assert test.p_value == pytest.approx(exact, abs=4.5 * np.sqrt(exact * (1 - exact) / 20_000))


def test_accuracy_is_tested_as_by_mcnemar():
    references = np.ones(300, int)
    first, second = references.copy(), references.copy()
    first[:9] = 0
    second[9:31] = 0
    second[200:240] = first[200:240] = 0
    exact = scipy.stats.binomtest(9, 31).pvalue
    test = paired_test("accuracy", [(first, second)], references, 2, resamples=40_000)
    assert test.difference == pytest.approx(13 / 300)
    assert test.p_value == pytest.approx(exact, abs=4.5 * np.sqrt(exact / 40_000))


@pytest.mark.parametrize("name", list(METRICS))
def test_p_values_under_the_null_are_at_least_uniform(name):
    n_labels = 2 if METRICS[name].kind == "classification" else 0
    rng = np.random.default_rng(9)
    p_values = []
    for trial in range(400):
        references, predictions = make(rng, n_labels, 2, 120)
        swap = rng.random(120) < 0.5
        pair = np.where(swap, predictions, predictions[::-1])
        test = paired_test(name, [tuple(pair)], references, n_labels, resamples=99, seed=trial)
        p_values.append(test.p_value)
    for level in (0.05, 0.1, 0.25, 0.5, 0.75):
        excess = np.mean(np.array(p_values) <= level) - level
        assert excess < 3.5 * np.sqrt(level * (1 - level) / 400)
    # Not merely cautious: ties aside, small p-values do occur about as often as they should.
    assert np.mean(np.array(p_values) <= 0.25) > 0.15


def test_a_clear_difference_has_the_smallest_p_value_and_equal_systems_the_largest():
    rng = np.random.default_rng(10)
    references = rng.normal(size=80)
    good, bad = references + 0.1 * rng.normal(size=80), rng.normal(size=80)
    for name in SCORES:
        assert paired_test(name, [(good, bad)], references, 0).p_value == 1 / 1000
        assert paired_test(name, [(good, good)], references, 0).p_value == 1


def test_the_p_value_counts_the_observation_and_is_two_sided():
    assert p_value(0.3, np.array([0.3, -0.3, 0.1, -0.4])) == 4 / 5
    assert p_value(-0.35, np.array([0.3, -0.3, 0.1, -0.4])) == 2 / 5
    assert p_value(0.1 + 0.2, np.array([0.3])) == 1  # equal up to rounding


def test_a_paired_test_without_a_pair_is_refused():
    with pytest.raises(LowRankError, match="at least one pair"):
        paired_test("accuracy", [], np.ones(3, int), 2)
