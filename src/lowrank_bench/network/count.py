"""Count the parameters of a network and the multiply-adds of the modules that run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lowrank_bench.layers.base import CompressedEmbedding
from lowrank_bench.layers.clustered import ClusteredEmbedding
from lowrank_bench.layers.coded_weight import CodedLayer
from lowrank_bench.layers.factorized import FactorizedEmbedding
from lowrank_bench.layers.linear import FactorizedLinear
from lowrank_bench.network.hooks import Watcher, watching
from lowrank_bench.network.layers import weight_of
from lowrank_bench.network.packed import packed_numbers

Counter = Callable[[Tensor, Tensor], int]  # of a module's input and output


@dataclass(frozen=True)
class Counts:
    """What one forward of a network costs.

    Attributes
    ----------
    parameters
        Number of parameters, shared ones counted once, and of the weights that torch's quantized
        modules hold packed; buffers are not counted.
    macs
        Multiply-adds of all products with stored weights: the sum of `by_module`. Products between
        activations, as in attention, are not counted, nor are normalisations and activation
        functions.
    by_module
        Multiply-adds by dotted name, for each module that ran.
    uncounted
        Names of modules with weight matrices whose multiply-adds are not known.
    """

    parameters: int
    macs: int
    by_module: dict[str, int]
    uncounted: tuple[str, ...] = ()


def count(model: nn.Module, example: Mapping[str, Tensor]) -> Counts:
    """Return the number of parameters of a network and the multiply-adds of one forward.

    Parameters
    ----------
    model
        Any network; it runs once, in evaluation mode, and is not changed.
    example
        Keyword arguments of a forward; the counts are those of the whole batch.
    """
    counters: dict[str, Counter] = {}
    uncounted = []
    for name, module in model.named_modules():
        counter = _counter(module)
        if counter is not None:
            counters[name] = counter
        elif _has_matrices(module):
            uncounted.append(name)
    # Shapes are known only while the network runs, so each module is watched.
    totals = dict.fromkeys(counters, 0)

    def watcher(name: str) -> Watcher:
        """Return the watcher that adds a module's multiply-adds to its total."""

        def add(inputs: Tensor, output: Tensor) -> None:
            """Add the multiply-adds of one call of the module."""
            totals[name] += counters[name](inputs, output)

        return add

    with torch.no_grad(), watching(model, {name: watcher(name) for name in counters}):
        model(**example)
    # A module that did not run costs nothing, such as a head used in training alone.
    ran = {name: total for name, total in totals.items() if total}
    return Counts(count_parameters(model), sum(ran.values()), ran, tuple(uncounted))


def count_parameters(model: nn.Module) -> int:
    """Return the number of all parameters, shared ones counted once, and of packed weights."""
    own = sum(parameter.numel() for parameter in model.parameters() if not is_lazy(parameter))
    return own + sum(packed_numbers(module) for module in model.modules())


def _counter(module: nn.Module) -> Counter | None:
    """Return what counts a module's own multiply-adds, or None if it has none."""
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return lambda inputs, output: inputs.numel() * module.weight[0].numel()
    if isinstance(module, nn.modules.conv._ConvNd):
        return lambda inputs, output: output.numel() * module.weight[0].numel()
    if isinstance(module, nn.Linear):
        return lambda inputs, output: output.numel() * module.in_features
    if isinstance(module, CodedLayer):
        outputs, products = module.matrix_shape[0], module.products
        return lambda inputs, output: output.numel() // outputs * products
    if isinstance(module, FactorizedLinear):
        # `right` has k·j rows of in/k entries: a group multiplies its own slice of the inputs only.
        return lambda inputs, output: (
            (output.numel() // module.out_features) * (module.right.numel() + module.left.numel())
        )
    if isinstance(module, FactorizedEmbedding | ClusteredEmbedding):
        return lambda inputs, output: output.numel() * module.rank
    if type(module).__name__ == "Conv1D":  # transformers' linear layer, whose weight is in×out
        return lambda inputs, output: output.numel() * len(weight_of(module))
    return None


def _has_matrices(module: nn.Module) -> bool:
    if isinstance(module, nn.Embedding):  # a look-up multiplies nothing
        return False
    compressed = isinstance(module, CompressedEmbedding)
    return compressed or any(p is not None and p.ndim > 1 for p in module._parameters.values())
