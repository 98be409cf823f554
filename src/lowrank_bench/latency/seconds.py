"""The seconds of a network and of its layers, measured while it runs.

Seconds are measured, so the choice that follows from them differs between machines, and may differ
between two runs on one machine. On the CPU one thread computes, and its own CPU seconds count.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_bench.device import device_of, evaluating, fixed_threads
from lowrank_bench.latency.clock import Clock, rounds_within, taken_in_turn
from lowrank_bench.network.forward import repeated
from lowrank_bench.network.problem import NetworkProblem

ROUNDS = (7, 40)  # least and most
BUDGET = 3.0  # seconds for the rounds
WARM_UP = 3


def batch_of(problem: NetworkProblem) -> dict[str, Tensor]:
    """Return the inputs on which the network's latency is measured."""
    return repeated(problem.example, problem.batch)


def dense_seconds(problem: NetworkProblem) -> dict[str, float]:
    """Return the seconds of each targeted layer, all its calls, in one dense forward.

    The batch is the problem's example, repeated to `problem.batch` rows. Measured once.
    """

    def measure() -> dict[str, float]:
        """Return the seconds of each layer of the dense network."""
        names = [layer.name for layer in problem.layers]
        return _measured([problem.model], names, batch_of(problem))[1][0]

    return problem.cached(("latency", "dense", problem.batch), measure)


def compared(
    problem: NetworkProblem, model: nn.Module
) -> tuple[dict[str, Any], dict[str, float], dict[str, float]]:
    """Return the seconds of the dense network and of a compressed one, run in turn.

    Returns
    -------
    (dict, dict, dict)
        Facts that JSON can hold: `dense_seconds` and `compressed_seconds`, the least of one forward
        of the whole network; `ratio`, the first over the second; `layers_*`, those of the targeted
        layers alone; `compression`, the share of these that is saved. Then the seconds of each
        layer, dense and compressed.
    """
    problem = problem.origin or problem
    names = [layer.name for layer in problem.layers]
    # In turn and in one process, so that both meet the same machine.
    whole, (before, after) = _measured([problem.model, model], names, batch_of(problem))
    dense, kept = sum(before.values()), sum(after.values())
    facts = {
        "batch": problem.batch,
        "clock": Clock(device_of(model)).name,
        "dense_seconds": whole[0],
        "compressed_seconds": whole[1],
        "ratio": whole[0] / whole[1],
        "layers_dense_seconds": dense,
        "layers_compressed_seconds": kept,
        "compression": 1 - kept / dense,
    }
    return facts, before, after


def _measured(
    models: Sequence[nn.Module], names: Sequence[str], inputs: Mapping[str, Tensor]
) -> tuple[list[float], list[dict[str, float]]]:
    """Return the least seconds of each network, and of the named layers in each.

    The layers are timed in forwards of their own, because reading the clock takes time as well.
    """
    clock = Clock(device_of(models[0]))
    layers: list[dict[str, float]] = [{} for _ in models]
    calls: list[Callable[[], object]] = []
    for model, least in zip(models, layers, strict=True):
        calls += [partial(model, **inputs), partial(_stamped, model, names, inputs, clock, least)]
    with fixed_threads(1), torch.inference_mode(), evaluating(*models):
        # The first round says how many rounds there is time for; it is part of the warm-up.
        first = taken_in_turn(calls, clock, 1)
        rounds = rounds_within(sum(times[0] for times in first), BUDGET, *ROUNDS)
        taken_in_turn(calls, clock, 0, WARM_UP - 1)
        for least in layers:
            least.clear()
        seconds = taken_in_turn(calls, clock, rounds)
    return [min(times) for times in seconds[::2]], layers


def _stamped(
    model: nn.Module,
    names: Sequence[str],
    inputs: Mapping[str, Tensor],
    clock: Clock,
    least: dict[str, float],
) -> None:
    """Run a network, and lower `least` where its layers took fewer seconds."""
    stamps: dict[str, list[Any]] = {name: [] for name in names}
    handles = []
    for name in names:
        layer, times = model.get_submodule(name), stamps[name]

        def note(*_: Any, times: list[Any] = times) -> None:
            """Note the time."""
            times.append(clock.stamp())

        handles += [layer.register_forward_pre_hook(note), layer.register_forward_hook(note)]
    try:
        model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    for name, times in stamps.items():
        # A layer that runs several times has a pair of stamps for each call.
        pairs = zip(times[::2], times[1::2], strict=True)
        seconds = sum(clock.between(start, end) for start, end in pairs)
        least[name] = min(seconds, least.get(name, seconds))
