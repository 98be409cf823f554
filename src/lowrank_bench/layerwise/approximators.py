"""How each layer's matrix is approximated: in a metric, by data or not, or by a matrix method."""

from collections.abc import Callable, Mapping

from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.layerwise.candidates import Candidate, compress_layers, layer_matrix
from lowrank_bench.layerwise.fitted import Approximator, FittedSpectrum, unfit
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
    approximator: str | Approximator,
    rule: str,
    further: Mapping[str, Metrics] | None = None,
) -> CompressedNetwork:
    """Return the network with every layer approximated and the budget divided by a rule.

    Parameters
    ----------
    compression
        Share of the budget's unit to save over the targeted layers.
    approximator
        As in `candidates`.
    rule
        As in `compress_layers`.
    further
        Metrics besides `METRICS`.

    Raises
    ------
    LowRankError
        When the approximator is unknown or needs data that are missing, a layer cannot be
        approximated, or the budget is out of reach.
    """
    return compress_layers(problem, candidates(problem, approximator, further), rule, compression)


def candidates(
    problem: NetworkProblem,
    approximator: str | Approximator,
    further: Mapping[str, Metrics] | None = None,
) -> list[Candidate]:
    """Return the approximations of every rank for every targeted layer; computed once.

    Parameters
    ----------
    approximator
        The name of a metric, one of `METRICS`, or a matrix method.
    further
        Metrics besides `METRICS`.

    Raises
    ------
    LowRankError
        When the metric is unknown, calibration data are missing, or the method needs more than the
        weights or returns more than two factors.
    """
    if isinstance(approximator, str):
        name, metrics = approximator, {**METRICS, **(further or {})}
        return problem.cached(("candidates", name), lambda: _projected(problem, name, metrics))
    method = approximator
    return problem.cached(("candidates", repr(method)), lambda: _fitted(problem, method))


def _projected(
    problem: NetworkProblem, name: str, metrics: Mapping[str, Metrics]
) -> list[Candidate]:
    """Return the candidates that are optimal in the metric `name`."""
    if name not in metrics:
        known = ", ".join(metrics)
        raise LowRankError(f"unknown metric {name!r}; known: {known}, or give a matrix method")
    candidates = []
    for layer in problem.layers:
        metric, mean = metrics[name](problem, layer)
        spectrum = MetricSpectrum(layer_matrix(problem, layer), metric)
        scarce = name not in WEIGHTS_ALONE and _is_scarce(problem, layer, name, spectrum)
        candidates.append(Candidate(layer, spectrum, mean, scarce))
    return candidates


def _is_scarce(problem: NetworkProblem, layer: Layer, name: str, spectrum: MetricSpectrum) -> bool:
    """Return whether data leave the last directions of a layer without error, being too few."""
    size = float(spectrum.squares[0])
    if size == 0:
        return True
    if layer.kind == "embedding" or name == "fwsvd":  # weights of whole rows or columns
        return False
    few = input_moments(problem)[layer.name].count < layer.matrix_shape[1]
    return few and float(spectrum.squares[-2]) <= SILENT * size


def _fitted(problem: NetworkProblem, method: Approximator) -> list[Candidate]:
    """Return the candidates that a matrix method computes."""
    if method.needs:
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
        right, mean = token_use(problem), None
    else:
        moments = input_moments(problem)[layer.name]
        right, mean = moments.covariance(), moments.mean
    return Metric(right=right, scale=1 / _variance(problem, layer, right)), mean


def _variance(problem: NetworkProblem, layer: Layer, right: Tensor) -> float:
    """Return the variance of the layer's response for the metric `right`; 1 if it is constant."""
    matrix = layer_matrix(problem, layer)
    image = matrix * right if right.ndim == 1 else matrix @ right
    variance = float((image * matrix).sum())
    return variance if variance > 0 else 1.0


def _two_sided(problem: NetworkProblem, layer: Layer) -> tuple[Metric, Tensor | None]:
    """Return the metric whose squared error predicts by how much the loss rises, in nats.

    It is half the Fisher information of the weight in its Kronecker-factored form: the number of
    positions times the second moments of inputs and output gradients.
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


WEIGHTS_ALONE = ("svd", "relative")  # metrics that no calibration data decide
SILENT = 1e-12  # share of the squared norm that is rounding
FLOOR = 1e-5  # as in the method `fwsvd`
METRICS: dict[str, Metrics] = {
    "svd": _plain,
    "whitened": _whitened,
    "two_sided": _two_sided,
    "fwsvd": _fisher,
}
