"""What ALDS did to each layer, measured on the layers that it made."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_bench.alds.cuts import AldsLayer
from lowrank_bench.alds.search import Choice
from lowrank_bench.layers.fold import fold


def describe(
    layers: Sequence[AldsLayer], chosen: Sequence[Choice], new: Mapping[str, nn.Module]
) -> list[dict[str, Any]]:
    """Return for each layer its cut, its parameters, and its errors, as JSON can hold it.

    `error` is what was minimized, `spectral_error` is ‖W − Ŵ‖/‖W‖ of the layer as it is, in the
    network's precision, and `bound` that of Theorem 1 on it, which only truncated SVDs have.
    """
    rows = []
    for own, choice in zip(layers, chosen, strict=True):
        row: dict[str, Any] = {"name": own.layer.name, "shape": list(own.layer.shape)}
        cut = choice.cut
        if cut is None:
            about = {"rank": None, "parameters": own.layer.parameters, "error": 0.0}
            rows.append({**row, **about, "spectral_error": 0.0, "bound": 0.0})
            continue
        module = new[own.layer.name]
        row |= {"rank": choice.rank, "groups": cut.groups, "scheme": cut.scheme}
        row |= {"parameters": sum(p.numel() for p in module.parameters()), "error": choice.error}
        row["spectral_error"] = spectral_error(own.weight, module, cut.scheme)
        row["bound"] = _bound(own, choice)
        rows.append(row)
    return rows


def summary(
    error: str, objective: str, rows: Sequence[Mapping[str, Any]], chosen: Sequence[Choice]
) -> dict[str, Any]:
    """Return what stands for the whole network: the objective and the largest errors."""
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
    """Return ‖W − Ŵ‖/‖W‖ of the layer that replaced W f×c×k1×k2, both folded by a scheme."""
    # An embedding gives its table as `weight`, other layers what they amount to.
    replaced = module.weight.detach().cpu().reshape(weight.shape)
    return relative_norm(weight.double() - replaced.double(), weight.double(), scheme)


def relative_norm(part: Tensor, whole: Tensor, scheme: int = 0) -> float:
    """Return the ratio of the spectral norms of two tensors f×c×k1×k2 folded by a scheme."""
    norm = _norm(fold(whole, scheme)[0])
    return _norm(fold(part, scheme)[0]) / norm if norm else 0.0


def _norm(matrix: Tensor) -> float:
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.T
    return float(torch.linalg.eigvalsh(matrix.T @ matrix)[-1].clamp(min=0).sqrt())


def _bound(own: AldsLayer, choice: Choice) -> float | None:
    cut = choice.cut
    if cut is None or own.whitened is not None or own.tokens is not None:
        return None
    slices = own.slices[cut.scheme]
    values = slices.values(cut.groups).amax(dim=0)
    lost = float(values[choice.rank]) if choice.rank < len(values) else 0.0
    return cut.groups**0.5 * lost / (slices.norm or 1.0)
