"""Report what ALDS did to each layer, with errors measured on the new layers."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_bench.alds.cuts import AldsLayer
from lowrank_bench.alds.search import Choice
from lowrank_bench.layers.fold import fold
from lowrank_bench.network.layers import weight_of


def describe(
    layers: Sequence[AldsLayer], chosen: Sequence[Choice], new: Mapping[str, nn.Module]
) -> list[dict[str, Any]]:
    """Return the cut, the parameters and the errors of each layer, as JSON values.

    `error` is what was minimized. `spectral_error` is ‖W − Ŵ‖/‖W‖ of the new layer in the network's
    precision. `bound` is Theorem 1's bound on it, which holds only for truncated SVDs.
    """
    rows = []
    for layer, choice in zip(layers, chosen, strict=True):
        row: dict[str, Any] = {"name": layer.layer.name, "shape": list(layer.layer.shape)}
        cut = choice.cut
        if cut is None:
            row |= {"rank": None, "parameters": layer.layer.parameters, "error": 0.0}
            rows.append({**row, "spectral_error": 0.0, "bound": 0.0})
            continue
        module = new[layer.layer.name]
        row |= {"rank": choice.rank, "groups": cut.groups, "scheme": cut.scheme}
        row |= {"parameters": sum(p.numel() for p in module.parameters()), "error": choice.error}
        row["spectral_error"] = spectral_error(layer.weight, module, cut.scheme)
        row["bound"] = _bound(layer, choice)
        rows.append(row)
    return rows


def summary(
    error: str, objective: str, rows: Sequence[Mapping[str, Any]], chosen: Sequence[Choice]
) -> dict[str, Any]:
    """Return the figures of the whole network: the objective and the largest errors."""
    errors = [row["error"] for row in rows]
    bounds = [row["bound"] for row in rows]
    total = sum(value**2 for value in errors)
    return {
        "error": error,
        "objective": total if objective == "sum" else max(errors),
        "max_spectral_error": max(row["spectral_error"] for row in rows),
        "max_bound": None if None in bounds else max(bounds),
        "spent": sum(choice.cost for choice in chosen),
        "dense_layers": sum(choice.cut is None for choice in chosen),
    }


def spectral_error(weight: Tensor, module: nn.Module, scheme: int = 0) -> float:
    """Return ‖W − Ŵ‖/‖W‖ for the layer that replaces W f×c×k1×k2, both folded by a scheme."""
    replaced = weight_of(module).detach().cpu().reshape(weight.shape)
    return relative_norm(weight.double() - replaced.double(), weight.double(), scheme)


def relative_norm(part: Tensor, whole: Tensor, scheme: int = 0) -> float:
    """Return the ratio of the spectral norms of two tensors f×c×k1×k2 folded by a scheme."""
    norm = _norm(fold(whole, scheme)[0])
    return _norm(fold(part, scheme)[0]) / norm if norm else 0.0


def _norm(matrix: Tensor) -> float:
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.T
    return float(torch.linalg.eigvalsh(matrix.T @ matrix)[-1].clamp(min=0).sqrt())


def _bound(layer: AldsLayer, choice: Choice) -> float | None:
    cut, rank = choice.cut, choice.rank
    if cut is None or rank is None or layer.whitened is not None or layer.tokens is not None:
        return None
    slices = layer.slices[cut.scheme]
    values = slices.values(cut.groups).amax(dim=0)
    lost = float(values[rank]) if rank < len(values) else 0.0
    scale: float = cut.groups**0.5
    return scale * lost / (slices.norm or 1.0)
