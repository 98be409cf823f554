"""Count what a network stores and multiplies, on the modules that really run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_bench.layers.base import CompressedEmbedding
from lowrank_bench.layers.clustered import ClusteredEmbedding
from lowrank_bench.layers.factorized import FactorizedEmbedding
from lowrank_bench.layers.linear import FactorizedLinear
from lowrank_bench.network.hooks import watching

Counter = Callable[[nn.Module, Tensor, Tensor], int]


@dataclass(frozen=True)
class Counts:
    """What one forward of a network costs.

    Attributes
    ----------
    parameters
        Numbers of all distinct parameters; buffers are not counted.
    macs
        Multiply-adds of the forward, those of products with stored weights: `by_module` summed.
        Products between activations, as in attention, normalisations and activation functions
        are not counted.
    by_module
        Multiply-adds by dotted name, for each module that ran.
    uncounted
        Names of modules that hold weight matrices of a kind that is not counted here.
    """

    parameters: int
    macs: int
    by_module: dict[str, int]
    uncounted: tuple[str, ...] = ()


def count(model: nn.Module, example: Mapping[str, Tensor]) -> Counts:
    """Return the parameters that a network stores and the multiply-adds of one forward.

    Parameters
    ----------
    model
        Any network; it runs once, in evaluation mode, and is left as it was.
    example
        Keyword arguments of a forward; a batch of one counts one example.
    """
    counters: dict[str, tuple[nn.Module, Counter]] = {}
    uncounted = []
    for name, module in model.named_modules():
        counter = _counter(module)
        if counter is not None:
            counters[name] = module, counter
        elif _has_matrices(module):
            uncounted.append(name)
    totals = dict.fromkeys(counters, 0)

    def watcher(name: str) -> Any:
        """Return what adds a module's multiply-adds to its total."""
        module, counter = counters[name]

        def add(given: Tensor, output: Tensor) -> None:
            """Add what one run of the module costs."""
            totals[name] += counter(module, given, output)

        return add

    with torch.no_grad(), watching(model, {name: watcher(name) for name in counters}):
        model(**example)
    ran = {name: total for name, total in totals.items() if total}
    return Counts(count_parameters(model), sum(ran.values()), ran, tuple(uncounted))


def count_parameters(model: nn.Module) -> int:
    """Return the numbers of all parameters, each counted once whatever names it has."""
    return sum(parameter.numel() for parameter in model.parameters())


def _counter(module: nn.Module) -> Counter | None:
    """Return how to count a module's own multiply-adds, or None for one that has none."""
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return lambda m, given, output: given.numel() * m.weight[0].numel()
    if isinstance(module, nn.modules.conv._ConvNd):
        return lambda m, given, output: output.numel() * m.weight[0].numel()
    if isinstance(module, nn.Linear):
        return lambda m, given, output: output.numel() * m.in_features
    if isinstance(module, FactorizedLinear):
        # `right` has k·j rows over in/k inputs each: a group multiplies its own slice alone.
        return lambda m, given, output: (
            (output.numel() // m.out_features) * (m.right.numel() + m.left.numel())
        )
    if isinstance(module, FactorizedEmbedding | ClusteredEmbedding):
        return lambda m, given, output: output.numel() * m.rank
    if type(module).__name__ == "Conv1D":  # transformers' linear layer, its weight in×out
        return lambda m, given, output: output.numel() * m.weight.shape[0]
    return None


def _has_matrices(module: nn.Module) -> bool:
    if isinstance(module, nn.Embedding):  # a look-up multiplies nothing
        return False
    many = isinstance(module, CompressedEmbedding)
    return many or any(p is not None and p.ndim > 1 for p in module._parameters.values())
