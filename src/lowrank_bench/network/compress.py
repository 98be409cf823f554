"""Run a method on a whole network and count the sizes of the result."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

from torch import nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.layers.stored import stored_bytes
from lowrank_bench.network.count import count
from lowrank_bench.network.coverage import check_saved
from lowrank_bench.network.layers import skipped_layers
from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem
from lowrank_bench.network.sizes import halve_rest
from lowrank_bench.problem import FLOAT_BYTES

COUNTED = (
    "parameters_dense",
    "parameters_kept",
    "index_bits",
    "network_parameters_dense",
    "network_parameters_kept",
    "macs_dense",
    "macs_kept",
)
BYTES = ("bytes_dense", "bytes_kept", "network_bytes_dense", "network_bytes_kept")


class WholeNetworkMethod(Protocol):
    """A method that compresses networks, as `methods.NetworkMethod` is."""

    def label(self) -> str:
        """Return the name of the method with its parameters."""
        ...

    def compress(self, problem: NetworkProblem, compression: float) -> CompressedNetwork:
        """Return a compressed copy of `problem.model` within the budget."""
        ...


def compress_within(
    problem: NetworkProblem, method: WholeNetworkMethod, compression: float
) -> CompressedNetwork:
    """Return the network as a method compresses it; `info` has the facts of `counted` as well.

    A budget of latency is checked by measuring the compressed network (`SecondsModel.within`).

    Raises
    ------
    LowRankError
        When the method refuses the network or the budget, no network is fast enough, or the
        network saves less than its layers.
    """
    if problem.budget == "latency":
        network = problem.timing.within(problem, compression, partial(method.compress, problem))
    else:
        network = method.compress(problem, compression)
    if problem.rest == "fp16":
        names = [layer.name for layer in problem.layers]
        halve_rest(network.model, names, problem.exclude)
    facts = counted(problem, network.model)
    left = skipped_layers(problem.model, problem.target, problem.layers, problem.exclude)
    if left:
        network.info["left_dense"] = left
    if problem.budget == "bytes" and facts["achieved_compression"] < compression - 1e-9:
        raise LowRankError(
            f"{method.label()} keeps {facts['network_bytes_kept']:,} of "
            f"{facts['network_bytes_dense']:,} bytes, more than {1 - compression:g}: a bias is "
            "beyond the range of half precision; leave out rest = fp16, or save a little less"
        )
    if problem.budget != "latency" and facts["achieved_compression"] < compression - 1e-9:
        raise AssertionError(f"{method.label()} keeps more than {1 - compression:g}: {facts}")
    return CompressedNetwork(network.model, network.layers, {**network.info, **facts})


def counted(problem: NetworkProblem, model: nn.Module) -> dict[str, Any]:
    """Return the sizes of a compressed copy of a problem's network, and of the dense network.

    `parameters_*` are those of the targeted layers, `network_parameters_*` those of all layers,
    `macs_*` the multiply-adds of one example. `achieved_compression` is in units of the budget; for
    a budget of latency it is that of the parameters. For a budget of bytes `bytes_*` and
    `network_bytes_*` are added.

    Raises
    ------
    LowRankError
        When the network saves less than its layers.
    """
    # After several compressions, sizes are still compared with the first network.
    problem = problem.origin or problem
    dense = problem.cached("count", lambda: count(problem.model, problem.example))
    kept = count(model, problem.example)
    layers = [model.get_submodule(layer.name) for layer in problem.layers]
    targeted = [
        sum(layer.parameters for layer in problem.layers),
        sum(p.numel() for layer in layers for p in layer.parameters()),
        _index_bits(layers),
    ]
    whole = [dense.parameters, kept.parameters, dense.macs, kept.macs]
    facts = dict(zip(COUNTED, [*targeted, *whole], strict=True))
    saved = facts["parameters_dense"] - facts["parameters_kept"]
    check_saved(model, dense.parameters, kept.parameters, saved)
    # Only multiply-adds of the targeted layers count against the budget, as its allowance does.
    if problem.budget == "macs":
        names = [layer.name for layer in problem.layers]
        used = sum(macs for name, macs in kept.by_module.items() if _inside(name, names))
        share = used / sum(layer.macs for layer in problem.layers)
    elif problem.budget == "bytes":
        facts |= byte_facts(problem.model, model, [layer.name for layer in problem.layers])
        share = facts["network_bytes_kept"] / facts["network_bytes_dense"]
    else:
        share = facts["parameters_kept"] / facts["parameters_dense"]
    return {**facts, "achieved_compression": 1 - share}


def byte_facts(dense: nn.Module, kept: nn.Module, layers: Sequence[str]) -> dict[str, int]:
    """Return the bytes of some layers and of the whole network, dense in float32 and as saved."""
    before, after = ([net.get_submodule(name) for name in layers] for net in (dense, kept))
    sizes = (
        sum(stored_bytes(layer, FLOAT_BYTES) for layer in before),
        sum(stored_bytes(layer) for layer in after),
        stored_bytes(dense, FLOAT_BYTES),
        stored_bytes(kept),
    )
    return dict(zip(BYTES, sizes, strict=True))


def _index_bits(layers: Sequence[nn.Module]) -> int:
    """Return the bits of all integers that layers hold."""
    values = (value for layer in layers for value in layer.buffers())
    whole = (value for value in values if not value.is_floating_point())
    return sum(8 * value.numel() * value.element_size() for value in whole)


def _inside(name: str, layers: list[str]) -> bool:
    return any(name == layer or name.startswith(f"{layer}.") for layer in layers)
