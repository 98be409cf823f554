"""Choose a rank for every layer under one budget, and build the compressed network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.layerwise.spectra import Spectrum
from lowrank_bench.network import allocate
from lowrank_bench.network.allocate import Options
from lowrank_bench.network.layers import Layer, replaced, weight_of
from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem
from lowrank_bench.network.replacement import factorized_layer
from lowrank_bench.network.scarce import warn_of_shortage

SHARE_LEAST = 1e-12  # of the energy kept, so that its logarithm is finite
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Candidate:
    """A layer with an approximation of every rank.

    Attributes
    ----------
    layer
        The layer.
    spectrum
        The approximations of its matrix m×n: f×(c·k1·k2), out×in, or for an embedding d×n,
        transposed.
    mean
        Mean input n; the bias of the compressed layer keeps the response to it. None to leave the
        bias unchanged.
    scarce
        Whether the calibration data are too few to rank all directions: some that the matrix has
        cost no error only because no data reach them.
    """

    layer: Layer
    spectrum: Spectrum
    mean: Tensor | None = None
    scarce: bool = False

    @property
    def biases(self) -> int:
        """Return the number of parameters of the compressed layer's bias."""
        has_bias = self.layer.has_bias or self.mean is not None
        return self.layer.shape[0] if has_bias else 0


def layer_matrix(problem: NetworkProblem, layer: Layer) -> Tensor:
    """Return the matrix m×n float64 that is factorized: the weight, transposed for an embedding."""
    weight = weight_of(problem.model.get_submodule(layer.name)).detach()
    matrix = weight.reshape(layer.matrix_shape).to("cpu", torch.float64)
    return matrix.T.contiguous() if layer.kind == "embedding" else matrix


def bias_bytes(problem: NetworkProblem, candidate: Candidate) -> int:
    """Return the bytes of a number of the new layer's bias.

    A bias that keeps the mean response may be too small for half precision, and then stays whole.
    """
    sizes, name = problem.sizes, candidate.layer.name
    return sizes.bias[name] if candidate.mean is None else sizes.number[name]


def options_of(problem: NetworkProblem, candidate: Candidate, errors: Floats) -> Options:
    """Return the options of a layer: rank 1, 2, … with `errors` at each rank, then dense.

    Parameters
    ----------
    errors
        float64 r + 1, for ranks 0..r.
    """
    layer = candidate.layer
    ranks = np.arange(1, len(errors))
    costs: NDArray[Any]
    dense: float
    # Each rank adds one row and one column of factors; biases come once.
    if problem.budget == "parameters":
        costs = ranks * sum(layer.matrix_shape) + candidate.biases
        dense = layer.parameters
    elif problem.budget == "bytes":
        number, old = problem.sizes.number[layer.name], layer.shape[0] * layer.has_bias
        biases = candidate.biases * bias_bytes(problem, candidate)
        costs = ranks * sum(layer.matrix_shape) * number + biases
        dense = (layer.parameters - old) * number + old * problem.sizes.bias[layer.name]
    elif problem.budget == "macs":
        costs, dense = ranks * sum(layer.matrix_shape) * layer.positions, layer.macs
        if layer.kind == "embedding":  # the left factor is looked up, which multiplies nothing
            costs = ranks * layer.shape[1] * layer.positions
    else:
        costs = problem.timing.rank_seconds(problem, layer)
        dense = problem.timing.dense_seconds(problem)[layer.name]
    return Options(np.append(costs, dense).astype(float), np.append(errors[1:], 0.0))


def _share(spectrum: Spectrum) -> Floats:
    total = max(float(spectrum.squares[0]), 1e-300)
    shares: Floats = (spectrum.squares / total).numpy()
    return shares


def _peak(spectrum: Spectrum) -> Floats:
    peaks: Floats = (spectrum.peaks / max(float(spectrum.peaks[0]), 1e-300)).sqrt().numpy()
    return peaks


def _rank_share(spectrum: Spectrum) -> Floats:
    return 1 - np.arange(len(spectrum.squares)) / (len(spectrum.squares) - 1)


def _lost_energy(spectrum: Spectrum) -> Floats:
    # The logarithm makes the sum over layers that of the product of the energies kept.
    lost: Floats = -np.log(np.clip(1 - _share(spectrum), SHARE_LEAST, 1))
    return lost


# For each allocation the rule that divides the budget, and the error at each rank that it uses.
RULES: dict[str, tuple[Callable[[list[Options], float], list[int]], Callable[[Spectrum], Floats]]]
RULES = {
    "uniform": (allocate.uniform, _share),
    "rank": (allocate.energy, _rank_share),
    "energy": (allocate.energy, _share),
    "minimax": (allocate.minimax, _peak),
    "sum": (allocate.least_sum, lambda spectrum: spectrum.squares.numpy()),
    "product": (allocate.least_sum, _lost_energy),
}


def compress_layers(
    problem: NetworkProblem, candidates: Sequence[Candidate], rule: str, compression: float
) -> CompressedNetwork:
    """Return the network with the rank of each layer chosen by a rule, within the budget.

    Parameters
    ----------
    rule
        `uniform`: each layer keeps the same share of its cost; `rank`: of its rank; `energy`: each
        loses the same share of squared error; `minimax`: the largest relative spectral error is
        least; `sum`: the sum of squared errors is least, in the spectra's units; `product`: the
        product of the shares of energy kept is largest.

    Raises
    ------
    LowRankError
        When the budget is below the cost of rank 1 in every layer.
    """
    choose, error_of = RULES[rule]
    errors = [error_of(candidate.spectrum) for candidate in candidates]
    options = [
        options_of(problem, candidate, layer_errors)
        for candidate, layer_errors in zip(candidates, errors, strict=True)
    ]
    budget = problem.allowance(compression)
    _check_reachable(problem, options, budget)
    chosen = choose(options, budget)
    info: dict[str, Any] = {}
    if scarce := [candidate.layer.name for candidate in candidates if candidate.scarce]:
        spent, chosen = chosen, _with_unseen(problem, candidates, chosen, budget)
        if chosen != spent:
            warn_of_shortage(scarce)
            info["scarce_layers"] = scarce
    # The last option of a layer keeps it dense; option i before it is rank i + 1.
    new: dict[str, nn.Module] = {}
    layers = []
    for candidate, choices, option in zip(candidates, options, chosen, strict=True):
        rank = None if option == len(choices.cost) - 1 else option + 1
        layers.append(_describe(candidate, rank))
        if rank is not None:
            new[candidate.layer.name] = build(problem, candidate, rank)
    info |= {
        "objective": _objective(rule, errors, chosen),
        "budget": budget,
        "spent": allocate.cost_of(options, chosen),
    }
    return CompressedNetwork(replaced(problem.model, new), layers, info)


def _with_unseen(
    problem: NetworkProblem, candidates: Sequence[Candidate], chosen: Sequence[int], budget: float
) -> list[int]:
    """Return the choice after spending the rest on directions that no data reach.

    They cost no error, so a rule drops them for free and saves more than was asked. Here a rank of
    such a layer counts as its share of all ranks, and of other layers as its share of the energy.
    """
    options = [
        options_of(problem, one, (_rank_share if one.scarce else _share)(one.spectrum))
        for one in candidates
    ]
    return allocate.spend(options, chosen, budget)


def build(problem: NetworkProblem, candidate: Candidate, rank: int) -> nn.Module:
    """Return the layer of rank `rank` that replaces a dense one."""
    layer = candidate.layer
    dense = problem.model.get_submodule(layer.name)
    left, right = candidate.spectrum.factors(rank)
    if layer.kind == "embedding":  # its matrix was transposed
        return factorized_layer(dense, right.T.contiguous(), left.T.contiguous())
    shift = None
    if candidate.mean is not None:
        shift = layer_matrix(problem, layer) @ candidate.mean - left @ (right @ candidate.mean)
    return factorized_layer(dense, left, right, shift=shift)


def _describe(candidate: Candidate, rank: int | None) -> dict[str, Any]:
    """Return the row of a layer in the report, as JSON values; rank None: it stays dense."""
    layer = candidate.layer
    row = {"name": layer.name, "shape": list(layer.shape), "rank": rank}
    if rank is None:
        return {**row, "parameters": layer.parameters, "error": 0.0}
    kept = rank * sum(layer.matrix_shape) + candidate.biases
    error = float(_share(candidate.spectrum)[rank]) ** 0.5
    return {**row, "parameters": kept, "error": error}


def _objective(rule: str, errors: Sequence[Floats], chosen: Sequence[int]) -> float:
    """Return the objective of the rule: the sum of the layers' errors, or the largest."""
    taken = [
        float(layer_errors[option + 1]) if option + 1 < len(layer_errors) else 0.0
        for layer_errors, option in zip(errors, chosen, strict=True)
    ]
    return sum(taken) if rule in ("sum", "product") else max(taken)


def _check_reachable(problem: NetworkProblem, options: Sequence[Options], budget: float) -> None:
    least = sum(layer.cost.min() for layer in options)
    if least > budget:
        what = "the fastest form of" if problem.budget == "latency" else "rank 1 in"
        raise LowRankError(
            f"the budget is below what {what} every layer keeps; the largest compression that "
            f"is reachable is {problem.reachable(least):.4f}"
        )
