"""The ways to approximate each layer of a network: by its weight alone, or in a metric of data."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.layerwise.candidates import Candidate, compress_layers, layer_matrix
from lowrank_bench.layerwise.fitted import FittedSpectrum, unfit
from lowrank_bench.layerwise.spectra import Metric, MetricSpectrum
from lowrank_bench.network.gradients import column_information, output_gradients
from lowrank_bench.network.layers import Layer
from lowrank_bench.network.moments import input_moments, token_use
from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem

# Returns the metric of a layer's matrix, and the mean input whose response the bias keeps.
Metrics = Callable[[NetworkProblem, Layer], tuple[Metric, Tensor | None]]


def compress_layerwise(
    problem: NetworkProblem,
    compression: float,
    approximator: str,
    rule: str,
    params: Mapping[str, Any] | None = None,
) -> CompressedNetwork:
    """Return the network with each layer approximated and the budget divided by a rule.

    Parameters
    ----------
    compression
        Share of the budget's unit to save over the targeted layers.
    approximator, params
        As in `candidates`.
    rule
        As in `compress_layers`.

    Raises
    ------
    LowRankError
        When the approximator is unknown or needs data that are absent, a layer cannot be handled,
        or the budget is out of reach.
    """
    found = candidates(problem, approximator, params or {})
    return compress_layers(problem, found, rule, compression)


def candidates(
    problem: NetworkProblem, approximator: str, params: Mapping[str, Any]
) -> list[Candidate]:
    """Return every targeted layer with its approximations of all ranks; computed once.

    Parameters
    ----------
    approximator
        `svd`, a data-aware metric of `METRICS`, or a matrix method of the registry.
    params
        Parameters of the registry's method.

    Raises
    ------
    LowRankError
        When the approximator is unknown or needs what is not there.
    """
    key = ("candidates", approximator, json.dumps(params, sort_keys=True))
    return problem.cached(key, lambda: _candidates(problem, approximator, params))


def _candidates(
    problem: NetworkProblem, approximator: str, params: Mapping[str, Any]
) -> list[Candidate]:
    if approximator not in METRICS:
        return _fitted(problem, approximator, params)
    if params:
        raise LowRankError(f"{approximator} takes no parameters; leave approximator_params empty")
    found = []
    for layer in problem.layers:
        metric, mean = METRICS[approximator](problem, layer)
        spectrum = MetricSpectrum(layer_matrix(problem, layer), metric)
        found.append(Candidate(layer, spectrum, mean))
    return found


def _fitted(problem: NetworkProblem, name: str, params: Mapping[str, Any]) -> list[Candidate]:
    from lowrank_bench.methods import MatrixMethod, make_method

    method = make_method(name, **params)
    if not isinstance(method, MatrixMethod) or method.needs:
        raise unfit(method)
    return [
        Candidate(layer, FittedSpectrum(layer_matrix(problem, layer), method))
        for layer in problem.layers
    ]


def _plain(problem: NetworkProblem, layer: Layer) -> tuple[Metric, Tensor | None]:
    return Metric(), None


def _whitened(problem: NetworkProblem, layer: Layer) -> tuple[Metric, Tensor | None]:
    """Return the metric of the layer's response, as a share of its variance."""
    if layer.kind == "embedding":
        metric, mean = Metric(right=token_use(problem)), None
    else:
        moments = input_moments(problem)[layer.name]
        metric, mean = Metric(right=moments.covariance()), moments.mean
    return Metric(right=metric.right, scale=1 / _variance(problem, layer, metric)), mean


def _variance(problem: NetworkProblem, layer: Layer, metric: Metric) -> float:
    """Return the squared norm of the layer's matrix in the metric; 1 where it never varies."""
    matrix, right = layer_matrix(problem, layer), metric.right
    image = matrix * right if right.ndim == 1 else matrix @ right
    variance = float((image * matrix).sum())
    return variance if variance > 0 else 1.0


def _two_sided(problem: NetworkProblem, layer: Layer) -> tuple[Metric, Tensor | None]:
    """Return the metric whose squared error predicts how much the loss rises, in nats.

    Half the Fisher information of the weight, in its Kronecker-factored form: positions times the
    moments of input and output gradient.
    """
    left = output_gradients(problem)[layer.name]
    if layer.kind == "embedding":
        return Metric(left, token_use(problem), scale=0.5), None
    moments = input_moments(problem)[layer.name]
    metric = Metric(left, moments.covariance(), scale=moments.positions / 2)
    return metric, moments.mean


def _fisher(problem: NetworkProblem, layer: Layer) -> tuple[Metric, Tensor | None]:
    weights = column_information(problem)[layer.name]
    return Metric(right=weights + FLOOR * float(weights.max())), None


FLOOR = 1e-5  # as in the method `fwsvd`
METRICS: dict[str, Metrics] = {
    "svd": _plain,
    "whitened": _whitened,
    "two_sided": _two_sided,
    "fwsvd": _fisher,
}
