"""Reference implementation of provable filter pruning: its formulas as loops in float64."""

import copy
import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

CONSTANT = 3
TINY = 2.0**-23


def layer_sensitivity(layer: nn.Module, images: torch.Tensor) -> np.ndarray:
    """The largest share of each input channel in any output: over images, filters and patches."""
    weight = layer.weight.detach().double()
    if isinstance(layer, nn.Linear):
        images = images.reshape(-1, images.shape[-1], 1, 1)
        layer, weight = nn.Conv2d(*weight.shape[::-1], 1), weight[:, :, None, None]
    best = np.zeros(weight.shape[1])
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    for image in images.double():
        for part in (image.clamp(min=0), (-image).clamp(min=0)):
            if not part.any():
                continue
            padded = F.pad(part[None], layer._reversed_padding_repeated_twice, mode)
            patches = F.unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride)[0]
            for filter_ in weight:
                for patch in patches.T:
                    one = _shares(filter_.numpy(), patch.numpy().reshape(filter_.shape))
                    best = np.maximum(best, one)
    return best


def _shares(filter_: np.ndarray, patch: np.ndarray) -> np.ndarray:
    best = np.zeros(len(filter_))
    for signed in (np.maximum(filter_, 0), np.maximum(-filter_, 0)):
        products = signed * patch
        total = products.sum()
        if total > TINY:
            best = np.maximum(best, products.max(axis=(1, 2)) / total)
    return best


def inputs_of(model: nn.Module, names: list[str], images: torch.Tensor) -> dict:
    """Return the input of each layer, in float64."""
    found, model = {}, copy.deepcopy(model).double()
    for name in names:
        model.get_submodule(name).register_forward_hook(
            lambda _, args, __, name=name: found.__setitem__(name, args[0])
        )
    with torch.no_grad():
        model(images.double())
    return found


def kept_units(graph, layers, scores: np.ndarray, size, budget: float, delta: float) -> set:
    """The units that PFP keeps; log-errors are tried from −3 upwards in steps of 1/1000."""
    pools = []
    for pool in graph.pools:
        total = sum(scores[unit] for unit in pool)
        alpha = 0.0
        for layer in layers:
            if any(unit in pool for unit in graph.reads[layer.name]):
                kernel = math.prod(layer.shape[2:])
                inside = 8 * (layer.positions + 1) * kernel / delta
                alpha = max(alpha, 2 * CONSTANT * math.log(inside))
        order = sorted(pool, key=lambda unit: -scores[unit])
        pools.append((order, total, alpha))
    for step in range(-3000, 40_000):
        error, kept = math.exp(step / 1000), []
        for order, total, alpha in pools:
            samples = math.ceil(3 * (6 + 2 * error) * total * alpha / error**2)
            distinct = sum(1 - (1 - scores[unit] / total) ** samples for unit in order)
            kept += order[: max(1, min(len(order), math.ceil(distinct - 1e-9)))]
        if size(kept) <= budget:
            return set(kept)
    raise AssertionError("no error fits the budget")
