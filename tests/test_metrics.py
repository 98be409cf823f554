"""Metrics against scikit-learn and SciPy, and the metric module loaded by `evaluate`."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from lowrank_bench.errors import LowRankError
from lowrank_bench.score import glue_metric, metrics
from lowrank_bench.score.metrics import METRICS, check_metrics, compute, predict_labels

RNG = np.random.default_rng(5)
MODULE = str(Path(glue_metric.__file__))
# `evaluate` looks for pipelines, which no metric needs and which take two thirds of its import.
USER = """
import json, sys
sys.modules["transformers"] = None
import evaluate
del sys.modules["transformers"]
metric = evaluate.load(sys.argv[1], "classification")
names = ["f1", "accuracy"]
values = metric.compute(predictions=[1, 0, 1, 1], references=[1, 0, 0, 1], metrics=names)
print(json.dumps(values))
"""


def test_classification_metrics_equal_scikit_learn():
    truth, guess = RNG.integers(2, size=(2, 60))
    assert compute(["accuracy", "f1", "matthews_correlation"], guess, truth) == {
        "accuracy": sklearn.metrics.accuracy_score(truth, guess),
        "f1": sklearn.metrics.f1_score(truth, guess),
        "matthews_correlation": sklearn.metrics.matthews_corrcoef(truth, guess),
    }


def test_regression_metrics_equal_scipy():
    truth = np.round(5 * RNG.random(50), 1)
    guess = truth + RNG.normal(size=50)
    values = compute(["pearson", "spearmanr"], guess, truth)
    assert values["pearson"] == pytest.approx(scipy.stats.pearsonr(guess, truth).statistic)
    assert values["spearmanr"] == pytest.approx(scipy.stats.spearmanr(guess, truth).statistic)


@pytest.mark.parametrize(
    ("names", "guess", "truth"),
    [
        (["matthews_correlation"], [1, 1, 1], [0, 1, 1]),
        (["matthews_correlation"], [1, 1, 1], [1, 1, 1]),
        (["f1"], [0, 0, 0], [0, 0, 0]),
        (["pearson", "spearmanr"], [0.1, 0.1, 0.1], [0.0, 1.0, 2.0]),
        (["pearson", "spearmanr"], [0.0, 1.0, 2.0], [3.3, 3.3, 3.3]),
        (["pearson", "spearmanr"], [1.0], [2.0]),
    ],
)
def test_degenerate_cases_are_zero_without_a_warning(names, guess, truth):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compute(names, np.array(guess), np.array(truth)) == dict.fromkeys(names, 0.0)


def test_many_systems_in_chunks_score_like_each_alone(monkeypatch):
    truth, guesses = RNG.integers(3, size=20), RNG.integers(3, size=(5, 20))
    names = ["accuracy", "matthews_correlation"]
    monkeypatch.setattr(metrics, "CALL_ELEMENTS", 45)  # two systems a call
    values = metrics.compute_rows(names, guesses, truth)
    for row, guess in enumerate(guesses):
        assert {name: values[name][row] for name in names} == compute(names, guess, truth)


@pytest.mark.parametrize(
    ("names", "n_labels", "words"),
    [
        (["bleu"], 2, "unknown metric 'bleu'"),
        (["pearson"], 2, "'pearson' is for regression"),
        (["accuracy"], 0, "'accuracy' is for classification"),
        (["f1"], 3, "'f1' needs two labels"),
    ],
)
def test_a_metric_that_does_not_fit_its_task_is_refused(names, n_labels, words):
    with pytest.raises(LowRankError, match=words):
        check_metrics(names, n_labels)


def test_arrays_and_metrics_that_do_not_match_are_refused():
    with pytest.raises(LowRankError, match="same length"):
        compute(["accuracy"], np.array([1, 0]), np.array([1]))
    with pytest.raises(LowRankError, match="same length"):
        compute(["accuracy"], np.array([]), np.array([]))
    with pytest.raises(LowRankError, match="of both kinds"):
        compute(["accuracy", "pearson"], np.array([1]), np.array([1]))


def test_logits_become_labels_or_scores():
    logits = np.array([[0.1, 0.9], [2.0, -1.0], [0.5, 0.5]], np.float32)
    assert predict_labels(logits, "classification").tolist() == [1, 0, 0]
    scores = predict_labels(np.array([[0.25], [-1.5]], np.float32), "regression")
    assert scores.dtype == np.float64
    assert scores.tolist() == [0.25, -1.5]


def test_processes_load_the_module_concurrently_offline_with_an_empty_cache(tmp_path):
    places = {"HF_HOME": str(tmp_path), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = [sys.executable, "-c", USER, MODULE]
    environment = os.environ | places | {"HF_HUB_OFFLINE": "1"}
    users = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for user in users:
        out, _ = user.communicate(timeout=300)
        assert user.returncode == 0
        assert json.loads(out) == {"f1": 0.8, "accuracy": 0.75}
    assert len(list((tmp_path / "modules").rglob("glue_metric.py"))) == 1


def test_scoring_imports_neither_torch_nor_evaluate():
    code = (
        "import sys, lowrank_bench.score.scores, lowrank_bench.stages.score; "
        "import lowrank_bench.inputs.rows; "
        "print([name for name in ('torch', 'evaluate') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_computing_a_metric_imports_no_torch_and_leaves_transformers_importable():
    code = (
        "import sys, numpy as np; from lowrank_bench.score.metrics import compute; "
        "value = compute(['accuracy'], np.array([0, 1]), np.array([0, 0])); "
        "print(value, [name for name in ('torch', 'transformers') if name in sys.modules]); "
        "import transformers"
    )
    env = os.environ | {"HF_HUB_OFFLINE": "1"}
    words = [sys.executable, "-c", code]
    out = subprocess.run(words, capture_output=True, text=True, check=True, env=env)
    assert out.stdout.strip() == "{'accuracy': 0.5} []"


def test_every_metric_has_a_function_and_is_better_when_higher():
    assert set(METRICS) == set(glue_metric.FUNCTIONS)
    truth = np.array([0, 1, 1, 0, 1])
    for name, metric in METRICS.items():
        # Perfect labels and scores are the true ones, perfect cosines are all one.
        perfect = np.ones(5) if metric.kind == "agreement" else truth
        best = compute([name], perfect, truth)[name]
        worse = compute([name], np.array([1, 1, 0, 0, 1]), truth)[name]
        assert (best == pytest.approx(1)) is metric.higher_is_better
        assert (best > worse) is metric.higher_is_better
