"""A budget of seconds: what the layers of a network take as they run, and the promise kept.

Seconds are measured, so the choice that follows from them differs between machines, and may differ
between two runs on one. On the CPU one thread computes, and its own CPU seconds count.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lowrank_bench.device import device_of
from lowrank_bench.errors import LowRankError
from lowrank_bench.latency.clock import Clock, fixed_threads, rounds_within, taken_in_turn
from lowrank_bench.network.forward import repeated

if TYPE_CHECKING:
    from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem

TRIES = 6  # networks that are built before a compression counts as out of reach
MARGIN = 0.98  # of what is allowed, after the first try; once more where all of it is slower
ROUNDS = (7, 40)  # least and most
BUDGET = 3.0  # seconds for the rounds
WARM_UP = 3


def dense_latency(problem: "NetworkProblem") -> float:
    """Return the seconds of all targeted layers in one forward of the dense network.

    The batch is the problem's example, repeated to `problem.batch` rows.
    """
    return sum(dense_seconds(problem).values())


def dense_seconds(problem: "NetworkProblem") -> dict[str, float]:
    """Return the seconds of each targeted layer, all its calls, in a dense forward; found once."""

    def found() -> dict[str, float]:
        """Return the seconds of each layer of the dense network."""
        names = [layer.name for layer in problem.layers]
        return _measured([problem.model], names, batch_of(problem))[1][0]

    return problem.cached(("latency", "dense", problem.batch), found)


def batch_of(problem: "NetworkProblem") -> dict[str, Tensor]:
    """Return the inputs on which the network's latency is measured."""
    return repeated(problem.example, problem.batch)


def within_latency(
    problem: "NetworkProblem",
    compression: float,
    make: Callable[[float], "CompressedNetwork"],
) -> "CompressedNetwork":
    """Return a network that keeps its budget of seconds as it runs; `info["latency"]` says how.

    What `make` gives rests on seconds of layers that were measured alone. The network that it
    makes is run in turn with the dense one; while its targeted layers take more than their share of
    the dense ones' seconds, or all of it is slower, what they took is taken note of (`learn`), and
    it is made again.

    Parameters
    ----------
    compression
        Share of the seconds of the targeted layers that is saved at least.
    make
        Gives the network for a compression.

    Raises
    ------
    LowRankError
        When no network of `TRIES` keeps the promise, with the largest compression that was
        measured, or when `make` refuses, by all that was learned.
    """
    from lowrank_bench.latency.tables import learn

    asked, most = compression, 0.0
    for attempt in range(1, TRIES + 1):
        try:
            found = make(asked)
        except LowRankError:
            if asked <= compression:
                raise
            asked = compression  # what is asked for, without a margin
            found = make(asked)
        facts, before, after = compared(problem, found.model)
        share, whole = 1 - facts["compression"], 1 / facts["ratio"]
        if (share <= 1 - compression and whole <= 1) or not _changed(problem, found.model):
            facts |= {"tries": attempt, "allowed_compression": asked}
            return replace(found, info={**found.info, "latency": facts})
        if whole <= 1:
            most = max(most, facts["compression"])
        if problem.origin is not None:  # what is compressed is not what it is compared with
            before = dense_seconds(problem)
        learn(problem, found.layers, {name: before[name] - own for name, own in after.items()})
        asked = 1 - (1 - (asked if whole > 1 else compression)) * MARGIN
    raise LowRankError(
        f"compression {compression:g} of latency is out of reach on this machine; the largest that "
        f"was measured is {most:.4f}"
    )


def compared(
    problem: "NetworkProblem", model: nn.Module
) -> tuple[dict[str, Any], dict[str, float], dict[str, float]]:
    """Return the seconds of the dense network and of a compressed one, run in turn.

    Returns
    -------
    (dict, dict, dict)
        As JSON can hold it: `dense_seconds` and `compressed_seconds`, the least of one forward of
        the whole network; `ratio`, the first over the second; `layers_*`, those of the targeted
        layers alone; `compression`, the share of these that is saved. And the seconds of each
        layer, dense and compressed.
    """
    problem = problem.origin or problem
    names = [layer.name for layer in problem.layers]
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

    A layer's seconds are taken in forwards of their own: stamps cost time as well.
    """
    clock = Clock(device_of(models[0]))
    layers: list[dict[str, float]] = [{} for _ in models]
    calls: list[Callable[[], object]] = []
    for model, least in zip(models, layers, strict=True):
        calls += [partial(model, **inputs), partial(_stamped, model, names, inputs, clock, least)]
    with fixed_threads(1), torch.inference_mode(), _evaluating(models):
        first = taken_in_turn(calls, clock, 1)
        rounds = rounds_within(sum(own[0] for own in first), BUDGET, *ROUNDS)
        taken_in_turn(calls, clock, 0, WARM_UP - 1)
        for least in layers:
            least.clear()
        seconds = taken_in_turn(calls, clock, rounds)
    return [min(own) for own in seconds[::2]], layers


def _stamped(
    model: nn.Module,
    names: Sequence[str],
    inputs: Mapping[str, Tensor],
    clock: Clock,
    least: dict[str, float],
) -> None:
    """Run a network and lower `least` to the seconds of its layers where they were less."""
    stamps: dict[str, list[Any]] = {name: [] for name in names}
    handles = []
    for name in names:
        layer, own = model.get_submodule(name), stamps[name]

        def note(*_: Any, own: list[Any] = own) -> None:
            """Note the time."""
            own.append(clock.stamp())

        handles += [layer.register_forward_pre_hook(note), layer.register_forward_hook(note)]
    try:
        model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    for name, own in stamps.items():
        pairs = zip(own[::2], own[1::2], strict=True)
        seconds = sum(clock.between(start, end) for start, end in pairs)
        least[name] = min(seconds, least.get(name, seconds))


def _changed(problem: "NetworkProblem", model: nn.Module) -> bool:
    """Return whether any targeted layer differs in its number of parameters from the dense one."""
    dense = (problem.origin or problem).model
    return any(
        _numbers(dense.get_submodule(layer.name)) != _numbers(model.get_submodule(layer.name))
        for layer in problem.layers
    )


def _numbers(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@contextmanager
def _evaluating(models: Sequence[nn.Module]) -> Iterator[None]:
    training = [part for model in models for part in model.modules() if part.training]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for part in training:
            part.training = True
