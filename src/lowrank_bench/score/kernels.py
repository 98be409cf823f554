"""Metrics of many cells on blocks of resamples or swaps, each by the module that computes it.

Accuracy, F1 and Matthews correlation follow from `counts`, the correlations from the modules of
their names, the mean cosine from `means`. All work on whole blocks (see `draws`), so that one
matrix product serves many cells.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowrank_bench.score import counts, means, pearson, spearman
from lowrank_bench.score.draws import chunks
from lowrank_bench.score.metrics import METRICS

RESAMPLED = {
    "pearson": pearson.resampled,
    "spearmanr": spearman.resampled,
    "cosine_to_dense": means.resampled,
}
SWAPPED = {
    "pearson": pearson.swapped,
    "spearmanr": spearman.swapped,
    "cosine_to_dense": means.swapped,
}


def resampled(
    metrics: Sequence[str],
    block: NDArray[np.float32],
    predictions: NDArray[np.number[Any]],
    references: NDArray[np.number[Any]],
    n_labels: int,
) -> dict[str, NDArray[np.float64]]:
    """Return the metrics of every cell on every resample of a block.

    Parameters
    ----------
    metrics
        Names among `metrics.METRICS`, all of the task's kind.
    block
        Counts of each example in each resample, rows×n.
    predictions, references
        Labels or finite scores, cells×n and n.
    n_labels
        Number of labels of the task; 0 for a regression.

    Returns
    -------
    dict
        From metric to values, cells×rows, in [−1, 1].
    """
    counted = _counted(metrics)
    values = counts.resampled(counted, block, predictions, references, n_labels) if counted else {}
    for name in (name for name in metrics if name in RESAMPLED):
        values[name] = RESAMPLED[name](block, predictions, references)
    return values


def swapped(
    metrics: Sequence[str],
    block: NDArray[np.float32],
    first: NDArray[np.number[Any]],
    second: NDArray[np.number[Any]],
    references: NDArray[np.number[Any]],
    n_labels: int,
) -> dict[str, NDArray[np.float64]]:
    """Return metric of `first` − metric of `second` after every swap of a block.

    Parameters
    ----------
    metrics, references, n_labels
        As in `resampled`.
    block
        1 where the predictions of an example are swapped, rows×n.
    first, second
        Predictions of the two systems, pairs×n.

    Returns
    -------
    dict
        From metric to differences, pairs×rows.
    """
    counted = _counted(metrics)
    values = counts.swapped(counted, block, first, second, references, n_labels) if counted else {}
    for name in (name for name in metrics if name in SWAPPED):
        values[name] = SWAPPED[name](block, first, second, references)
    return values


def _counted(metrics: Sequence[str]) -> list[str]:
    return [name for name in metrics if METRICS[name].kind == "classification"]


def on_blocks(
    metrics: Sequence[str],
    blocks: Iterable[NDArray[np.float32]],
    draws: int,
    cells: int,
    elements: int,
    values: Callable[[NDArray[np.float32], slice], dict[str, NDArray[np.float64]]],
) -> dict[str, NDArray[np.float64]]:
    """Gather metrics over all blocks, for as many cells at a time as fit in memory.

    Parameters
    ----------
    metrics
        Names of the metrics that `values` returns.
    blocks
        Resamples or swaps, rows×n each.
    draws
        Rows of all blocks together.
    cells
        Number of cells, or of pairs of them.
    elements
        Numbers that the work arrays hold for one cell and one example or row.
    values
        Called with a block and a slice of the cells; returns from metric to values, cells×rows.

    Returns
    -------
    dict
        From metric to values, cells×draws.
    """
    gathered = {name: np.empty((cells, draws)) for name in metrics}
    start = 0
    for block in blocks:
        rows = slice(start, start + len(block))
        start = rows.stop
        for part in chunks(cells, sum(block.shape) * elements):
            for name, value in values(block, part).items():
                gathered[name][part, rows] = value
    return gathered
