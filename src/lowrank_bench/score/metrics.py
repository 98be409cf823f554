"""Metrics by name, computed through Hugging Face `evaluate` and the module `glue_metric`.

Degenerate cases have a value, so that even a network ruined by compression gets a score:

- a constant prediction, or constant labels: Matthews, Pearson and Spearman correlation 0;
- no example labelled or predicted 1: F1 0;
- a single example: Pearson and Spearman correlation 0.

`cosine_to_dense` needs no labels: it is the mean cosine of the sentence vectors of a network and of
the dense one.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from lowrank_bench.errors import LowRankError

if TYPE_CHECKING:
    import evaluate

Kind = Literal["classification", "regression", "agreement"]
# Most numbers in one call; `evaluate` makes a Python object of each.
CALL_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class Metric:
    """What a metric is computed from, and which direction is better."""

    kind: Kind
    higher_is_better: bool = True


METRICS = {
    "accuracy": Metric("classification"),
    "f1": Metric("classification"),
    "matthews_correlation": Metric("classification"),
    "pearson": Metric("regression"),
    "spearmanr": Metric("regression"),
    "cosine_to_dense": Metric("agreement"),
}


def kind_of(n_labels: int) -> Kind:
    """Return the kind of a task with `n_labels` labels; a regression has none."""
    return "classification" if n_labels else "regression"


def check_metrics(metric_names: Sequence[str], n_labels: int, vectors: int = 0) -> None:
    """Check that these metrics fit a task with `n_labels` labels (0: regression).

    Parameters
    ----------
    vectors
        Sentence vectors for each example, where a task compares them: 2, or 1 without a score.

    Raises
    ------
    LowRankError
        For an unknown metric, one of the other kind, or F1 with other than two labels.
    """
    for name in metric_names:
        if name not in METRICS:
            raise LowRankError(f"unknown metric {name!r}; known: {', '.join(METRICS)}")
        kind = kind_of(n_labels)
        if METRICS[name].kind == "agreement" and vectors:
            continue
        if METRICS[name].kind != kind or vectors == 1:
            raise LowRankError(f"metric {name!r} is for {METRICS[name].kind}, the task is {kind}")
        if name == "f1" and n_labels != 2:
            raise LowRankError(f"metric 'f1' needs two labels, the task has {n_labels}")


def predict_labels(
    logits: NDArray[np.number[Any]], kind: Kind
) -> NDArray[np.int64] | NDArray[np.float64]:
    """Turn a network's outputs into predictions.

    Parameters
    ----------
    logits
        Finite outputs, n×labels for classification, n×1 or n for regression; cosines of sentence
        vectors n×3 or n×1, as `inputs.similarity.vectors.predict` returns them.
    kind
        `classification`, `regression` or `agreement`.

    Returns
    -------
    numpy.ndarray
        n labels, int64, the lowest where logits are equal; or n scores, float64, for agreement
        the mean cosine of an example with the dense network.
    """
    if kind == "classification":
        labels: NDArray[np.int64] = logits.argmax(axis=1)
        return labels
    columns = logits.reshape(len(logits), -1).astype(np.float64)
    if kind == "regression":
        return columns[:, 0]
    # Of pairs the first column is their own cosine; the others are those with the dense network.
    mean: NDArray[np.float64] = columns[:, columns.shape[1] > 1 :].mean(axis=1)
    return mean


def compute(
    metric_names: Sequence[str],
    predictions: NDArray[np.number[Any]],
    references: NDArray[np.number[Any]],
) -> dict[str, float]:
    """Compute metrics through `evaluate`.

    Parameters
    ----------
    metric_names
        Names among `METRICS`, all of one kind.
    predictions, references
        n labels, or n scores, at least one.

    Returns
    -------
    dict
        From name to value, in [−1, 1], as the module docstring defines degenerate cases.

    Raises
    ------
    LowRankError
        For an unknown metric, metrics of both kinds, or arrays that do not match.
    """
    values = compute_rows(metric_names, np.asarray(predictions)[None], np.asarray(references))
    return {name: float(value[0]) for name, value in values.items()}


def compute_rows(
    metric_names: Sequence[str],
    predictions: NDArray[np.number[Any]],
    references: NDArray[np.number[Any]],
) -> dict[str, NDArray[np.float64]]:
    """Compute metrics of many systems in few calls of `evaluate`.

    Parameters
    ----------
    metric_names, references
        As in `compute`.
    predictions
        Labels or scores, systems×n.

    Returns
    -------
    dict
        From name to values, one per system.

    Raises
    ------
    LowRankError
        As in `compute`.
    """
    kinds = {METRICS[name].kind for name in metric_names if name in METRICS}
    if len(kinds) != 1 or not METRICS.keys() >= set(metric_names):
        raise LowRankError(
            f"metrics {', '.join(metric_names)} are unknown or of both kinds; "
            f"known: {', '.join(f'{name} ({metric.kind})' for name, metric in METRICS.items())}"
        )
    if predictions.shape[1:] != references.shape or references.ndim != 1 or not len(references):
        raise LowRankError(
            f"predictions {predictions.shape[1:]} and references {references.shape} "
            "must be vectors of the same length, at least 1"
        )
    module, size = _module(kinds.pop()), max(1, CALL_ELEMENTS // len(references))
    parts = []
    for start in range(0, len(predictions), size):
        rows = list(predictions[start : start + size])
        values = module.compute(
            predictions=rows, references=[references] * len(rows), metrics=list(metric_names)
        )
        parts.append([values[name] for name in metric_names])
    return dict(zip(metric_names, np.concatenate(parts, axis=1), strict=True))


def _import_evaluate() -> None:
    """Import `evaluate`, without transformers unless that is imported already.

    `evaluate` imports pipelines from transformers where that is installed, and with them torch.
    Nothing here uses them, and without them the import takes a fifth of the time.
    """
    if "transformers" in sys.modules:
        return
    # None makes Python raise ImportError for the module, as if it were not installed.
    sys.modules["transformers"] = None  # type: ignore[assignment]  # typed as holding modules only
    try:
        import evaluate  # noqa: F401
    finally:
        del sys.modules["transformers"]


@cache
def _module(kind: Kind) -> "evaluate.EvaluationModule":
    _import_evaluate()  # takes seconds: only where a metric is computed
    import evaluate

    path = Path(__file__).with_name("glue_metric.py")
    # In memory, because files in the metrics cache are shared with other processes.
    return evaluate.load(str(path), f"{kind}-rows", keep_in_memory=True)
