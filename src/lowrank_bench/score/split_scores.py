"""Score all cells of one task on one split: metrics, bootstrap and paired tests at once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowrank_bench.score.bootstrap import bootstrap
from lowrank_bench.score.comparison import Comparison, Sample, Versus
from lowrank_bench.score.draws import generator
from lowrank_bench.score.metrics import METRICS, Kind, compute_rows, predict_labels
from lowrank_bench.score.paired_test import permute
from lowrank_bench.score.scored_cell import ScoredCell


@dataclass(frozen=True)
class Statistics:
    """Numbers of bootstrap resamples and of random swaps, and the seed of both."""

    resamples: int
    permutations: int
    seed: int


@dataclass(frozen=True, eq=False)
class Split:
    """A split of a task: its metrics and labels, or the reason why the labels are missing.

    Attributes
    ----------
    n_labels
        Number of labels of the task; 0 for a regression.
    references
        Labels 0 … n_labels − 1, or scores; None when the split is missing.
    missing
        Why the split is missing.
    vectors
        Sentence vectors for each example, 1 or 2; 0 for a task that compares none.
    """

    task: str
    name: str
    metrics: Sequence[str]
    n_labels: int
    references: NDArray[np.number[Any]] | None
    missing: str = ""
    vectors: int = 0

    def by_kind(self) -> dict[Kind, list[str]]:
        """Return the metrics of each kind: those computed from the same predictions."""
        groups: dict[Kind, list[str]] = {}
        for name in self.metrics:
            groups.setdefault(METRICS[name].kind, []).append(name)
        return groups

    def problem(self, cell: ScoredCell) -> tuple[str, str] | None:
        """Return why a cell cannot be scored on this split (status, reason); None if it can."""
        if cell.status != "ok":
            return cell.status, cell.reason or "no reason was given"
        if self.references is None:
            return "skipped", self.missing or f"no labels for split {self.name}"
        if not self._labelled(self.references):
            return "skipped", f"the labels of split {self.name} are hidden or not the task's"
        if self.name not in cell.predictions:
            return "skipped", self.missing or f"no predictions for split {self.name}"
        logits = self.logits(cell)
        # A pair has its own cosine, and two with the dense network.
        columns = 3 if self.vectors == 2 else 1
        wanted = (len(self.references), self.n_labels or columns)
        if logits.shape != wanted:
            shapes = " not ".join(f"{rows}x{columns}" for rows, columns in (logits.shape, wanted))
            return "failed", f"predictions of split {self.name} are {shapes}"
        broken = np.count_nonzero(~np.isfinite(logits).all(axis=1))
        if broken:
            return "failed", f"{broken} of {len(logits)} predictions are not finite"
        return None

    def logits(self, cell: ScoredCell) -> NDArray[np.floating[Any]]:
        """Return the cell's outputs on this split as a matrix."""
        logits = np.asarray(cell.predictions[self.name])
        return logits[:, None] if logits.ndim == 1 else logits

    def _labelled(self, references: NDArray[np.number[Any]]) -> bool:
        """Say whether every example has a label of the task; hidden labels are -1."""
        top = self.n_labels - 1 if self.n_labels else np.inf
        known = np.isfinite(references) & (references <= top)
        if self.n_labels:
            known &= references >= 0
        return bool(len(references) and known.all())


def score_split(
    cells: Sequence[ScoredCell],
    dense: Sequence[int | None],
    baseline: Sequence[int | None],
    split: Split,
    statistics: Statistics,
) -> list[dict[str, Comparison]]:
    """Compute the metrics of all cells of a task on a split, and compare the cells.

    Parameters
    ----------
    cells
        Cells of the split's task that can be scored on it.
    dense, baseline
        For each cell the places in `cells` of its dense network and its baseline, or None.
    split
        The split, with labels.
    statistics
        Numbers of draws. Resamples and swaps depend only on the seed, the task and the split.

    Returns
    -------
    list of dict
        For each cell, from metric to comparison.
    """
    references = np.asarray(split.references)
    references = references.astype(np.int64 if split.n_labels else np.float64)
    samples: list[dict[str, Sample]] = [{} for _ in cells]
    null: dict[int, dict[str, NDArray[np.float64]]] = {place: {} for place in range(len(cells))}
    for kind, metrics in split.by_kind().items():
        predictions = np.stack([predict_labels(split.logits(cell), kind) for cell in cells])
        part = replace(split, metrics=metrics)
        for place, sample in enumerate(_samples(predictions, references, part, statistics)):
            samples[place] |= sample
        for place, drawn in _null(predictions, baseline, references, part, statistics).items():
            null[place] |= drawn
    comparisons = []
    for place, (sample, dense_place, baseline_place) in enumerate(
        zip(samples, dense, baseline, strict=True)
    ):
        dense_sample = {} if dense_place is None else samples[dense_place]
        versus = {} if baseline_place is None else _versus(samples[baseline_place], null[place])
        comparisons.append(
            {
                name: Comparison(value, dense_sample.get(name), versus.get(name))
                for name, value in sample.items()
            }
        )
    return comparisons


def _samples(
    predictions: NDArray[np.number[Any]],
    references: NDArray[np.number[Any]],
    split: Split,
    statistics: Statistics,
) -> list[dict[str, Sample]]:
    """Return each cell's metrics, all of one kind, with their bootstrap draws."""
    # Exact values first; then all cells under the same resamples, so that pairs are paired.
    values = compute_rows(split.metrics, predictions, references)
    draws = bootstrap(
        split.metrics,
        predictions,
        references,
        split.n_labels,
        resamples=statistics.resamples,
        rng=generator(statistics.seed, "bootstrap", split.task, split.name),
    )
    return [
        {name: Sample(float(values[name][place]), draws[name][place]) for name in split.metrics}
        for place in range(len(predictions))
    ]


def _versus(baseline: dict[str, Sample], null: dict[str, NDArray[np.float64]]) -> dict[str, Versus]:
    return {name: Versus(sample, null[name]) for name, sample in baseline.items()}


def _null(
    predictions: NDArray[np.number[Any]],
    baseline: Sequence[int | None],
    references: NDArray[np.number[Any]],
    split: Split,
    statistics: Statistics,
) -> dict[int, dict[str, NDArray[np.float64]]]:
    """Return null draws of the differences from the baseline, for each cell that has one."""
    pairs = [(place, other) for place, other in enumerate(baseline) if other is not None]
    if not pairs:
        return {}
    first, second = np.array(pairs).T
    draws = permute(
        split.metrics,
        predictions[first],
        predictions[second],
        references,
        split.n_labels,
        resamples=statistics.permutations,
        rng=generator(statistics.seed, "swaps", split.task, split.name),
    )
    return {
        place: {name: draws[name][row] for name in split.metrics}
        for row, place in enumerate(first.tolist())
    }
