"""Weights that are no parameters: those that torch's quantized modules hold packed."""

from typing import Any

from torch import Tensor, nn


def packed_numbers(module: nn.Module) -> int:
    """Return how many weights and biases a quantized module of torch holds itself; 0 for others."""
    if ".quantized" not in type(module).__module__:
        return 0
    values: list[Any] = []
    for attribute in ("weight", "bias", "get_weight", "get_bias"):
        read = getattr(module, attribute, None)
        if callable(read) and not isinstance(read, Tensor):
            value = read()
            values += value.values() if isinstance(value, dict) else [value]
    return sum(value.numel() for value in values if isinstance(value, Tensor))
