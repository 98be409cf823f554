"""Metrics of classification, regression and agreement, a metric module of Hugging Face `evaluate`.

Load it by its path: `evaluate.load(path, "classification")` for labels, `"regression"` for scores,
`"agreement"` for cosines. The configurations with `-rows` after these names take one vector per
system instead of one number per example, and return a list for each metric: `evaluate` needs some
ten milliseconds for each call and some microseconds for each number, so one call serves many
systems.

`evaluate` copies this file into HF_MODULES_CACHE, in a folder named by a digest of the source and
behind a file lock, so that processes that load it at the same time share one copy. It also reads
the imports below line by line: one module to a line, none relative. `evaluate` is imported as a
module, because the first metric class in this namespace is taken for the one to load.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
import scipy.stats
import sklearn.metrics

DESCRIPTION = (
    "Accuracy, F1, Matthews, Pearson and Spearman correlation, mean cosine; degenerate cases: 0"
)
USAGE = """
Args:
    predictions: predicted labels or scores; with `-rows` one vector of them per system.
    references: true labels or scores, in the same shape.
    metrics: names among accuracy, f1, matthews_correlation, pearson, spearmanr, cosine_to_dense.
Returns:
    A dictionary from name to value, in [-1, 1]; with `-rows` to one value per system.
"""


def f1(references: np.ndarray, predictions: np.ndarray) -> float:
    """Return the F1 of label 1; 0 when no example is labelled or predicted 1."""
    return float(sklearn.metrics.f1_score(references, predictions, zero_division=0))


def pearson(references: np.ndarray, predictions: np.ndarray) -> float:
    """Return Pearson's correlation; 0 where it is undefined."""
    if len(references) < 2 or np.ptp(references) == 0 or np.ptp(predictions) == 0:
        return 0.0
    return float(scipy.stats.pearsonr(references, predictions).statistic)


def spearmanr(references: np.ndarray, predictions: np.ndarray) -> float:
    """Return Pearson's correlation of the mid-ranks; 0 where it is undefined."""
    if len(references) < 2 or np.ptp(references) == 0 or np.ptp(predictions) == 0:
        return 0.0
    return float(scipy.stats.spearmanr(references, predictions).statistic)


def cosine_to_dense(references: np.ndarray, predictions: np.ndarray) -> float:
    """Return the mean of the predictions, cosines with the dense network; there is no truth."""
    return float(np.mean(predictions))


FUNCTIONS = {
    "accuracy": sklearn.metrics.accuracy_score,
    "f1": f1,
    "matthews_correlation": sklearn.metrics.matthews_corrcoef,
    "pearson": pearson,
    "spearmanr": spearmanr,
    "cosine_to_dense": cosine_to_dense,
}


class GlueMetric(evaluate.Metric):  # type: ignore[misc]  # `evaluate` ships no types
    """Metrics by name, of labels (`classification`) or of numbers (all other configurations)."""

    def _info(self) -> evaluate.MetricInfo:
        kind, _, shape = self.config_name.partition("-")
        scalar = datasets.Value("int64" if kind == "classification" else "float64")
        feature = datasets.Sequence(scalar) if shape == "rows" else scalar
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=USAGE,
            features=datasets.Features({"predictions": feature, "references": feature}),
            format=None if shape else "numpy",  # `evaluate` forbids it for vectors
        )

    def _compute(
        self, predictions: Sequence[Any], references: Sequence[Any], metrics: Sequence[str]
    ) -> dict[str, float | list[float]]:
        guesses, truth = np.asarray(predictions), np.asarray(references)
        with warnings.catch_warnings():
            # A network that always predicts the same label is a result here, not a mistake.
            warnings.simplefilter("ignore")
            if guesses.ndim == 1:
                return {name: float(FUNCTIONS[name](truth, guesses)) for name in metrics}
            return {
                name: [float(FUNCTIONS[name](*pair)) for pair in zip(truth, guesses, strict=True)]
                for name in metrics
            }
