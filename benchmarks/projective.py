"""Projective clustering: one step and a whole search, ours against null spaces and full SVDs."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import scipy.linalg
import torch
from measure import Row, cpu_seconds, interleaved, peak_copies
from torch import Tensor

from lowrank_bench.linalg.clustering.projective import projective_clustering
from lowrank_bench.linalg.clustering.subspaces import Fitter, Rows

CLUSTERS = 5


def make(rows: int, columns: int) -> Tensor:
    """Return rows in eight groups, each with its own spectrum, n×d float64."""
    generator = torch.Generator().manual_seed(0)
    normal = partial(torch.randn, generator=generator, dtype=torch.float64)
    matrix = normal(rows, columns) * torch.arange(1, columns + 1) ** -0.4
    for group in range(8):
        turn = torch.linalg.qr(torch.eye(columns).double() + 0.02 * normal(columns, columns)).Q
        matrix[group::8] = matrix[group::8] @ turn
    return matrix * (0.3 * normal(rows, 1)).exp()


def plain_step(rows: np.ndarray, labels: np.ndarray, dimension: int, full: bool) -> np.ndarray:
    """Return the labels after a step with the SVD of each part and the null space of its basis."""
    gaps = np.empty((len(rows), CLUSTERS))
    for cluster in range(CLUSTERS):
        axes = np.linalg.svd(rows[labels == cluster], full_matrices=full)[2]
        gaps[:, cluster] = np.linalg.norm(rows @ scipy.linalg.null_space(axes[:dimension]), axis=1)
    return gaps.argmin(axis=1)


def plain_search(matrix: Tensor, labels: Tensor, dimension: int, steps: int) -> float:
    """Return Σ distance² after a few plain steps and an SVD of each part."""
    rows, now = matrix.numpy(), labels.numpy()
    for _ in range(steps):
        now = plain_step(rows, now, dimension, full=False)
    parts = [np.linalg.svd(rows[now == c], compute_uv=False) for c in range(CLUSTERS)]
    return float(sum((values[dimension:] ** 2).sum() for values in parts))


def our_step(rows: Rows, labels: Tensor, dimension: int) -> Tensor:
    """Return the labels after a first step, which cannot reuse any Gram matrices."""
    subspaces, _ = Fitter(rows, CLUSTERS, dimension).fit(labels, None, rows.squares)
    return rows.nearest(subspaces, labels)[0]


def search(matrix: Tensor) -> float:
    """Run two steps on a matrix; for the memory run."""
    dimension = matrix.shape[1] // 2
    return projective_clustering(matrix, CLUSTERS, dimension, restarts=1, steps=2).cost


def rows(quick: bool) -> Iterator[Row]:
    """Yield the lines of the table."""
    size, columns = (3000, 96) if quick else (30522, 768)
    dimension, steps = columns // 2, 5
    name = f"k={CLUSTERS}, j={dimension}, {size}x{columns}"
    matrix = make(size, columns)
    labels = torch.randperm(size, generator=torch.Generator().manual_seed(1)) % CLUSTERS
    prepared = Rows(matrix)
    for full, kind in ((False, "thin"), (True, "full_matrices=True")):
        ours, theirs = interleaved(
            partial(our_step, prepared, labels, dimension),
            partial(plain_step, matrix.numpy(), labels.numpy(), dimension, full),
            repeats=1 if full and not quick else 3,
        )
        note = f"{ours:.3f} s against {theirs:.3f} s"
        yield Row(f"clustering step, null spaces and {kind} SVD, {name}", ours / theirs, None, note)
    costs: list[float] = []

    def our_search() -> None:
        clustering = projective_clustering(
            matrix, CLUSTERS, dimension, steps=steps, starts=[labels], tolerance=0
        )
        costs.append(clustering.cost)

    ours = cpu_seconds(our_search)
    theirs = cpu_seconds(
        lambda: costs.append(plain_search(matrix, labels, dimension, steps)),
    )
    note = f"cost {costs[0]:.9g} against {costs[1]:.9g}"
    memory = peak_copies(partial(make, size, columns), search)
    yield Row(f"clustering, {steps} steps from one start, {name}", ours / theirs, memory, note)
