"""What fits a task: one for networks with a head, or one for networks as encoders of sentences."""

from collections.abc import Sequence
from typing import Any, Protocol

COSINE = "cosine_to_dense"  # the metric of sentence vectors


class TaskParts(Protocol):
    """The keys of a task (`config.entries.Task`) that are looked at here."""

    @property
    def label(self) -> str | None:
        """Column of the labels."""

    @property
    def labels(self) -> Sequence[str]:
        """Names of the labels."""

    @property
    def columns(self) -> Sequence[str]:
        """Columns of the inputs."""

    @property
    def modality(self) -> str:
        """Kind of the task."""

    @property
    def pooling(self) -> str | None:
        """How hidden states become a vector."""

    @property
    def recipe(self) -> Any:
        """Settings of training."""

    @property
    def evaluation(self) -> Sequence[Any]:
        """Splits with their metrics."""


def head_fault(task: TaskParts) -> str:
    """Return what a task for networks with a head may not have; empty where nothing is wrong."""
    if task.label is None:
        return "label = None leaves nothing to learn; name the column of labels"
    if task.pooling:
        return (
            f"pooling = {task.pooling!r} is for sentence vectors; remove it, or set modality to "
            "similarity"
        )
    if COSINE in _metrics(task):
        return (
            f"metrics = {COSINE!r} compares sentence vectors, which a task of modality "
            f"{task.modality!r} has none of; take it out, or set modality to similarity"
        )
    return ""


def similarity_fault(task: TaskParts) -> str:
    """Return what is wrong with a task of similarity; empty where nothing is."""
    if task.labels:
        return (
            f"labels = {task.labels} are for classifiers; a task of modality 'similarity' has the "
            "scores of the column that label names, or label: null, and labels: []"
        )
    recipe = {key: value for key, value in task.recipe.model_dump().items() if value is not None}
    for key, value in recipe.items():
        return (
            f"recipe.{key} = {value} is for training, and a task of modality 'similarity' trains "
            "nothing; remove it"
        )
    scores = sorted(_metrics(task) - {COSINE})
    if wrong := sorted(set(scores) - {"pearson", "spearmanr"}):
        return (
            f"metrics = {wrong[0]!r} is for classification; similarity is measured by spearmanr, "
            f"pearson and {COSINE}"
        )
    if scores and (task.label is None or len(task.columns) == 1):
        return (
            f"metrics = {scores[0]!r} compares the cosine of two sentences with a human score; "
            f"name two columns and the label, or measure {COSINE} alone"
        )
    return ""


def _metrics(task: TaskParts) -> set[str]:
    return {metric for entry in task.evaluation for metric in entry.metrics}
