"""Keep a budget of latency: make a network, measure it, and make it again where it is too slow."""

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.latency.seconds import compared, dense_seconds
from lowrank_bench.latency.tables import learn
from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem

TRIES = 6  # networks that are made before a compression counts as out of reach
MARGIN = 0.98  # factor on the allowed seconds after each try, so that noise does not decide


def within_latency(
    problem: NetworkProblem,
    compression: float,
    make: Callable[[float], CompressedNetwork],
) -> CompressedNetwork:
    """Return a network that keeps its budget of seconds when it runs; `info["latency"]` says how.

    `make` chooses by the seconds of layers that were measured alone. The network that it makes is
    run in turn with the dense one. If its targeted layers take more than their share of the dense
    layers' seconds, or the whole network is slower than the dense one, the layers' seconds are
    corrected by what was measured (`tables.learn`) and the network is made again.

    Parameters
    ----------
    compression
        Least share of the targeted layers' seconds to save.
    make
        Makes the network for a compression.

    Raises
    ------
    LowRankError
        When none of `TRIES` networks is fast enough, with the largest compression that was
        measured; or when `make` refuses, after all corrections.
    """
    asked, most = compression, 0.0
    for attempt in range(1, TRIES + 1):
        try:
            network = make(asked)
        except LowRankError:
            if asked <= compression:
                raise
            asked = compression  # the margin is out of reach; the budget itself may not be
            network = make(asked)
        facts, before, after = compared(problem, network.model)
        share, whole = 1 - facts["compression"], 1 / facts["ratio"]
        if (share <= 1 - compression and whole <= 1) or not _changed(problem, network.model):
            facts |= {"tries": attempt, "allowed_compression": asked}
            return replace(network, info={**network.info, "latency": facts})
        if whole <= 1:
            most = max(most, facts["compression"])
        if problem.origin is not None:  # `before` is of the first network, not of this problem's
            before = dense_seconds(problem)
        saved = {name: before[name] - seconds for name, seconds in after.items()}
        learn(problem, network.layers, saved)
        # Where only the layers miss their share, the margin starts anew from the budget.
        asked = 1 - (1 - (asked if whole > 1 else compression)) * MARGIN
    raise LowRankError(
        f"compression {compression:g} of latency is out of reach on this machine; the largest that "
        f"was measured is {most:.4f}"
    )


def _changed(problem: NetworkProblem, model: nn.Module) -> bool:
    """Return whether the number of parameters of any targeted layer differs from the dense one."""
    dense = (problem.origin or problem).model
    return any(
        _numbers(dense.get_submodule(layer.name)) != _numbers(model.get_submodule(layer.name))
        for layer in problem.layers
    )


def _numbers(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
