"""What a target leaves out of a network, as the cell of the dense network keeps it."""

from collections import Counter
from collections.abc import Sequence

from torch import nn

from lowrank_bench.network.coverage import coverage
from lowrank_bench.network.layers import skipped_layers
from lowrank_bench.network.problem import NetworkProblem
from lowrank_bench.store.digest import canonical


def left_out_of(model: nn.Module, layer: str) -> str:
    """Return what a compression of the embedding `layer` leaves out, as `left_out_text`."""
    return left_out_text(model, "embedding", [layer])


def left_out_by(problem: NetworkProblem) -> str:
    """Return what a compression of all layers of a target leaves out, as `left_out_text`."""
    names = [layer.name for layer in problem.layers]
    reasons = skipped_layers(problem.model, problem.target, problem.layers)
    return left_out_text(problem.model, problem.target, names, reasons)


def left_out_text(
    model: nn.Module, target: str, layers: Sequence[str], reasons: dict[str, str] | None = None
) -> str:
    """Return the modules that are left out, those of one kind and reason together.

    Returns
    -------
    str
        A JSON list of `kind`, `reason`, `modules` and `parameters`, the largest first.
    """
    modules: Counter[tuple[str, str]] = Counter()
    parameters: Counter[tuple[str, str]] = Counter()
    for module in coverage(model, target, layers, reasons).skipped:
        modules[module.kind, module.reason] += 1
        parameters[module.kind, module.reason] += module.parameters
    return canonical(
        [
            {"kind": kind, "reason": reason, "modules": modules[kind, reason], "parameters": size}
            for (kind, reason), size in parameters.most_common()
        ]
    )
