"""Compress every layer of a network by low rank: an approximation each, one budget for all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.layers.convolution import FactorizedConv2d
from lowrank_bench.layers.embedding import compressed_embedding
from lowrank_bench.layers.linear import FactorizedLinear
from lowrank_bench.layerwise.spectra import Spectrum
from lowrank_bench.linalg.factors import Factors
from lowrank_bench.network import allocate
from lowrank_bench.network.allocate import Options
from lowrank_bench.network.layers import Layer, replaced
from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem

SHARE_LEAST = 1e-12


@dataclass(frozen=True, eq=False)
class Candidate:
    """A layer with its approximations of every rank.

    Attributes
    ----------
    layer
        The layer.
    spectrum
        Of its matrix m×n: f×(c·k1·k2), out×in, or for an embedding d×n, turned.
    mean
        Mean input n, whose response the compressed layer keeps through its bias; None to leave the
        bias alone.
    """

    layer: Layer
    spectrum: Spectrum
    mean: Tensor | None = None

    @property
    def biases(self) -> int:
        """Return the numbers of the compressed layer's bias."""
        has_bias = self.layer.has_bias or self.mean is not None
        return self.layer.shape[0] if has_bias else 0


Approximate = Callable[[NetworkProblem], Sequence[Candidate]]


def layer_matrix(problem: NetworkProblem, layer: Layer) -> Tensor:
    """Return the weight as the matrix m×n float64 that is factorized, an embedding's turned."""
    weight = problem.model.get_submodule(layer.name).weight.detach()
    matrix = weight.reshape(layer.matrix_shape).to("cpu", torch.float64)
    return matrix.T.contiguous() if layer.kind == "embedding" else matrix


def options_of(problem: NetworkProblem, candidate: Candidate, errors: np.ndarray) -> Options:
    """Return what a layer can become: rank 1, 2, … with `errors` at each rank, and last dense.

    Parameters
    ----------
    errors
        float64 r + 1, for ranks 0..r.
    """
    layer = candidate.layer
    ranks = np.arange(1, len(errors))
    if problem.budget == "parameters":
        costs = ranks * sum(layer.matrix_shape) + candidate.biases
        dense = layer.parameters
    elif problem.budget == "macs":
        costs, dense = ranks * sum(layer.matrix_shape) * layer.positions, layer.macs
        if layer.kind == "embedding":  # its left factor is looked up
            costs = ranks * layer.shape[1] * layer.positions
    else:
        costs = problem.timing.rank_seconds(problem, layer)
        dense = problem.timing.dense_seconds(problem)[layer.name]
    return Options(np.append(costs, dense).astype(float), np.append(errors[1:], 0.0))


def _share(spectrum: Spectrum) -> np.ndarray:
    total = max(float(spectrum.squares[0]), 1e-300)
    return (spectrum.squares / total).numpy()


def _peak(spectrum: Spectrum) -> np.ndarray:
    return (spectrum.peaks / max(float(spectrum.peaks[0]), 1e-300)).sqrt().numpy()


def _rank_share(spectrum: Spectrum) -> np.ndarray:
    return 1 - np.arange(len(spectrum.squares)) / (len(spectrum.squares) - 1)


def _lost_energy(spectrum: Spectrum) -> np.ndarray:
    return -np.log(np.clip(1 - _share(spectrum), SHARE_LEAST, 1))


# How the budget is divided: the rule, and the error of each rank that it looks at.
RULES: dict[str, tuple[Callable[..., list[int]], Callable[[Spectrum], np.ndarray]]] = {
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
        `uniform`: the same share of each layer's cost; `rank`: of each layer's rank; `energy`: the
        same share of squared error; `minimax`: the least largest relative spectral error; `sum`:
        the least sum of squared errors, in the spectra's units; `product`: the largest product of
        the shares of energy kept.

    Raises
    ------
    LowRankError
        When the budget is below the smallest that rank 1 everywhere reaches.
    """
    choose, error_of = RULES[rule]
    errors = [error_of(candidate.spectrum) for candidate in candidates]
    options = [
        options_of(problem, candidate, own)
        for candidate, own in zip(candidates, errors, strict=True)
    ]
    budget = problem.allowance(compression)
    _check_reachable(problem, options, budget)
    chosen = choose(options, budget)
    new: dict[str, nn.Module] = {}
    layers = []
    for candidate, own, option in zip(candidates, options, chosen, strict=True):
        rank = None if option == len(own.cost) - 1 else option + 1
        layers.append(_describe(candidate, rank))
        if rank is not None:
            new[candidate.layer.name] = build(problem, candidate, rank)
    info = {
        "objective": _objective(rule, errors, chosen),
        "budget": budget,
        "spent": allocate.cost_of(options, chosen),
    }
    return CompressedNetwork(replaced(problem.model, new), layers, info)


def build(problem: NetworkProblem, candidate: Candidate, rank: int) -> nn.Module:
    """Return the layer of that rank that replaces a dense one."""
    layer = candidate.layer
    dense = problem.model.get_submodule(layer.name)
    left, right = candidate.spectrum.factors(rank)
    if layer.kind == "embedding":
        return compressed_embedding(dense, Factors(right.T.contiguous(), left.T.contiguous()))
    bias = None
    if candidate.mean is not None:
        lost = layer_matrix(problem, layer) @ candidate.mean - left @ (right @ candidate.mean)
        bias = lost if dense.bias is None else lost + dense.bias.detach().cpu().double()
    kind = FactorizedConv2d if layer.kind == "conv" else FactorizedLinear
    return kind.from_dense(dense, left, right, bias=bias)


def _describe(candidate: Candidate, rank: int | None) -> dict[str, Any]:
    """Return what became of a layer, as JSON can hold it; rank None: it stays dense."""
    layer = candidate.layer
    about: Mapping[str, Any] = {"name": layer.name, "shape": list(layer.shape), "rank": rank}
    if rank is None:
        return {**about, "parameters": layer.parameters, "error": 0.0}
    kept = rank * sum(layer.matrix_shape) + candidate.biases
    error = float(_share(candidate.spectrum)[rank]) ** 0.5
    return {**about, "parameters": kept, "error": error}


def _objective(rule: str, errors: Sequence[np.ndarray], chosen: Sequence[int]) -> float:
    """Return the rule's own objective: the sum or the largest of the layers' errors."""
    taken = [
        float(own[option + 1]) if option + 1 < len(own) else 0.0
        for own, option in zip(errors, chosen, strict=True)
    ]
    return sum(taken) if rule in ("sum", "product") else max(taken)


def _check_reachable(problem: NetworkProblem, options: Sequence[Options], budget: float) -> None:
    least = sum(own.cost.min() for own in options)
    if least > budget:
        what = "the fastest form of" if problem.budget == "latency" else "rank 1 in"
        raise LowRankError(
            f"the budget is below what {what} every layer keeps; the largest compression that "
            f"is reachable is {max(1 - least / problem.allowance(0), 0):.4f}"
        )
