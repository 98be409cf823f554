"""Errors that need no data: shares of what a layer's weight holds, comparable between layers."""

import torch
from torch import Tensor

from lowrank_bench.layerwise.forms import rows_of
from lowrank_bench.layerwise.spectra import Metric
from lowrank_bench.linalg.coding.coder import POWER, use_weights
from lowrank_bench.linalg.frequency.row_use import row_use
from lowrank_bench.network.layers import Layer
from lowrank_bench.network.problem import NetworkProblem
from lowrank_bench.problem import Problem

# An error of the table counts so many times that of a layer. On training sentences of STS-B,
# MiniLM's 1 - cosine to its own vectors is 0.17 to 0.24 times the table's share, and 0.10 to 0.14
# times that of the layers; with 2, vectors turn less than with 1 at 91.4 and 93 % (on MRPC too).
TABLE = 2.0


def table_weights(
    problem: NetworkProblem, layer: Layer, source: str = "vocabulary", alpha: float = POWER
) -> Tensor:
    """Return the weights of an embedding's rows, n: use^α.

    Parameters
    ----------
    source
        `vocabulary`, `counts` or `uniform`, as in `linalg.frequency.row_use`.

    Raises
    ------
    LowRankError
        When the problem lacks the facts that the use is estimated from.
    """
    facts = problem.row_facts
    rows = Problem(
        rows_of(problem, layer), frequency=facts.get("frequency"), counts=facts.get("counts")
    )
    use = problem.cached(("table use", source), lambda: row_use(rows, source))
    return use_weights(use, alpha)


def relative(problem: NetworkProblem, layer: Layer) -> tuple[Metric, Tensor | None]:
    """Return the metric of the share of a weight's squared norm that is lost, ‖E‖² / ‖W‖².

    Rows of a table weigh by use^α as in its codes, and the table by `TABLE`. The sum over all
    layers predicts how far the network's outputs turn, whatever the bits.
    """
    matrix = rows_of(problem, layer)
    if layer.kind != "embedding":
        size = float(matrix.square().sum())
        return Metric(scale=1 / size if size > 0 else 1.0), None
    weights = table_weights(problem, layer)
    size = float((weights * matrix.square().sum(1)).sum())
    return Metric(right=weights, scale=TABLE / size if size > 0 else 1.0), None


def weighed(metric: Metric, root: Tensor | None, error: Tensor) -> float:
    """Return the squared norm of an error m×n in a metric, whose left side has a known root.

    Parameters
    ----------
    root
        E with E Eᵀ = L, m×m, or its diagonal m; None for the identity (`spectra.MetricSpectrum`).
    """
    if root is not None:
        root = root.to(error)
        error = root.unsqueeze(1) * error if root.ndim == 1 else root.T @ error
    image = error
    if metric.right is not None:
        right = metric.right.to(error)
        image = error * right if right.ndim == 1 else error @ right
    # Row by row in this precision, and the rows in float64.
    total = torch.linalg.vecdot(error, image).double().sum()
    return max(float(total), 0.0) * metric.scale
