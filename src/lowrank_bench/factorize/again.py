"""Compress a network that was compressed and trained before."""

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn

from lowrank_bench.device import device_of
from lowrank_bench.network.compress import compress_within
from lowrank_bench.network.problem import NetworkProblem
from lowrank_bench.network.restore import densified

if TYPE_CHECKING:
    from lowrank_bench.methods import NetworkMethod


def compress_trained(
    trained: nn.Module, origin: NetworkProblem, method: "NetworkMethod", compression: float
) -> tuple[nn.Module, dict[str, Any]]:
    """Return a network compressed once more, and its facts.

    Factors are multiplied out first; budgets are shares of the original network.

    Parameters
    ----------
    trained
        The network after the compressions and trainings so far.
    origin
        The problem of the network before any compression.

    Raises
    ------
    LowRankError
        When the method refuses the network or the budget.
    """
    again = densified(trained).to(device_of(origin.model))
    problem = replace(origin, model=again, origin=origin, _memo={})
    start = time.perf_counter()
    compressed = compress_within(problem, method, compression)
    facts = {**compressed.info, "layers": compressed.layers}
    return compressed.model, {**facts, "factorize_seconds": time.perf_counter() - start}
