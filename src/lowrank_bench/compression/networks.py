"""Compress all layers of a network under one budget."""

import copy
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar, cast, get_args

from torch import Tensor, nn

from lowrank_bench.compression.byte_counts import byte_facts
from lowrank_bench.compression.report import CompressionReport
from lowrank_bench.compression.request import Numbers, OnStep, as_vector, checked_budget
from lowrank_bench.compression.table_facts import read_facts
from lowrank_bench.errors import LowRankError
from lowrank_bench.latency import seconds_for
from lowrank_bench.layers.embedding import find_embedding
from lowrank_bench.layers.plain import refuse_held, refuse_uncopied
from lowrank_bench.methods import Method, NetworkMethod, as_method, network_method
from lowrank_bench.network.check import check_example, checked_batches, take_modes
from lowrank_bench.network.compress import BYTES, COUNTED, compress_within
from lowrank_bench.network.coverage import coverage
from lowrank_bench.network.exclude import excluded
from lowrank_bench.network.forward import example_of
from lowrank_bench.network.layers import refuse_shared
from lowrank_bench.network.problem import Batches, CompressedNetwork, Inputs, NetworkProblem
from lowrank_bench.problem import data_used, used

Network = TypeVar("Network", bound=nn.Module)
NetworkTarget = Literal["linear", "conv"]
Budget = Literal["parameters", "macs", "latency", "bytes"]
Rest = Literal["as_is", "fp16"]


def compress_network(
    model: Network,
    method: str | NetworkMethod,
    compression: float | None = None,
    *,
    target: NetworkTarget,
    saved_bytes: float | None = None,
    rest: Rest = "as_is",
    example: Inputs | None = None,
    batches: Batches | None = None,
    budget: Budget = "parameters",
    exclude: Sequence[str] = (),
    on_step: OnStep | None = None,
    tokenizer: Any = None,
    texts: Iterable[str] | None = None,
    frequency: Numbers | None = None,
    counts: Numbers | None = None,
    **params: Any,
) -> tuple[Network, CompressionReport]:
    """Return a copy of a network with all targeted layers compressed, and a report.

    Parameters
    ----------
    model, method
        A transformers model or any torch module, left as it was; a method's name or an object.
    compression
        Share of `budget` over the targeted layers to save, between 0 and 1; little more is saved.
    target
        `linear`: linear layers and the embedding; `conv`: convolutions and linear layers.
    saved_bytes
        Instead of `compression`: share of the bytes of the whole network in float32.
    rest
        What is not targeted, and biases, on disk: `as_is`, or `fp16` where that holds the values.
    example
        Keyword arguments of one forward, batch size 1; None: made from the configuration.
    batches
        Returns the calibration data, pairs of keyword arguments and labels (or None).
    budget
        `parameters`, `macs` (multiply-adds of the example), `latency`, or `bytes`.
    exclude, tokenizer, texts, frequency, counts
        Names of layers to leave out (`network.exclude`); use of rows, as in `compress_embedding`.
    on_step, **params
        Called with a few words when a step begins; parameters of a method given by name.

    Raises
    ------
    LowRankError
        When the budget is out of reach, a layer cannot be handled, or data are absent.
    """
    share, unit = checked_budget(model, compression, saved_bytes)
    _check_target(target)
    chosen = as_method(method, params)
    network = _copied(model, memo := dict[Any, Any]()).eval()
    said = {"frequency": frequency, "counts": counts}
    facts = _row_facts(network, target, said, chosen.needs, tokenizer, texts)
    inputs = _checked_inputs(network, example, batches, "labels" in chosen.needs, exclude)
    problem = _problem(network, target, _unit(budget, unit), inputs, tuple(exclude))
    problem = replace(problem, rest=rest, row_facts=facts)
    return _compressed(model, problem, chosen, share, memo, on_step)


def _compressed(
    model: Network,
    problem: NetworkProblem,
    chosen: Method,
    share: float,
    memo: dict[Any, Any],
    on_step: OnStep | None,
) -> tuple[Network, CompressionReport]:
    """Return the compressed copy of the user's network, and the report."""
    whole = network_method(chosen, problem.target)
    _refuse_shared(model, problem, memo)
    if on_step:
        on_step(f"compress {_layers(problem)} by {chosen.label()}")
    start = time.perf_counter()
    compressed = compress_within(problem, whole, share)
    report = _report(chosen, problem, compressed, time.perf_counter() - start)
    take_modes(compressed.model, model)
    return cast(Network, compressed.model), report


def _unit(budget: Budget, unit: str) -> Budget:
    """Return what is limited, by both ways to say it."""
    if unit == "bytes" and budget not in ("parameters", "bytes"):
        raise LowRankError(f"saved_bytes is a budget of bytes, not of {budget}; leave one out")
    return "bytes" if unit == "bytes" else budget


def _row_facts(
    network: nn.Module,
    target: NetworkTarget,
    facts: dict[str, Numbers | None],
    needs: tuple[str, ...],
    tokenizer: Any,
    texts: Iterable[str] | None,
) -> dict[str, Tensor]:
    """Return the facts about the rows of a transformer's table that the method needs."""
    idle = [name for name, value in {"texts": texts, **facts}.items() if value is not None]
    if target == "conv" and idle:
        raise LowRankError(f"{idle[0]} means nothing for target 'conv'; leave it out")
    if target != "linear" or not set(needs) & set(facts):
        return {}
    rows = find_embedding(network)[1].num_embeddings
    facts = facts | read_facts(facts, needs, rows, tokenizer, texts)
    return {name: as_vector(name, value) for name, value in facts.items() if value is not None}


def _check_target(target: str) -> None:
    if target not in get_args(NetworkTarget):
        known = ", ".join(get_args(NetworkTarget))
        raise LowRankError(f"{target!r} is not a target of whole networks; known: {known}")


def _checked_inputs(
    network: nn.Module,
    example: Inputs | None,
    batches: Batches | None,
    labelled: bool,
    exclude: Sequence[str],
) -> tuple[Inputs, Batches | None]:
    """Return example and batches, checked, with labels where they are needed."""
    inputs = example_of(network) if example is None else example
    check_example(network, inputs)
    excluded(network, exclude)  # a wrong name is refused before any work
    return inputs, batches and checked_batches(network, batches, labelled)


def _problem(
    network: nn.Module,
    target: NetworkTarget,
    budget: Budget,
    inputs: tuple[Inputs, Batches | None],
    exclude: tuple[str, ...],
) -> NetworkProblem:
    seconds = seconds_for(budget)
    return NetworkProblem(network, target, *inputs, budget, seconds=seconds, exclude=exclude)


def _layers(problem: NetworkProblem) -> str:
    count, size = len(problem.layers), sum(layer.parameters for layer in problem.layers)
    return f"{count} layer{'s' * (count != 1)} with {size:,} parameters"


def _refuse_shared(model: nn.Module, problem: NetworkProblem, memo: dict[Any, Any]) -> None:
    """Refuse layers whose weights something else in the user's network holds as well."""
    layers = {layer.name: model.get_submodule(layer.name) for layer in problem.layers}
    refuse_shared(model, layers.values())
    for name, layer in layers.items():
        refuse_held(name, layer, memo, copied=True)


def _report(
    method: Method, problem: NetworkProblem, compressed: CompressedNetwork, seconds: float
) -> CompressionReport:
    info, names = dict(compressed.info), [layer.name for layer in problem.layers]
    counts = {name: info.pop(name) for name in COUNTED}
    for name in BYTES:  # `byte_facts` has more of them
        info.pop(name, None)
    return CompressionReport(
        method=method.name,
        params=method.model_dump(mode="json"),
        target=problem.target,
        layers=compressed.layers,
        compression=info.pop("achieved_compression"),
        data_used=data_used(used(method.needs, problem.target)),
        seconds=seconds,
        info=info,
        **counts,
        **byte_facts(problem.model, compressed.model, names),
        **coverage(problem.model, problem.target, names, info.get("left_dense")).facts(),
    )


def _copied(model: Network, memo: dict[Any, Any]) -> Network:
    """Return a copy of a network; `memo` is that of `copy.deepcopy`."""
    try:
        copied = copy.deepcopy(model, memo)
    except (RuntimeError, TypeError) as error:
        fault = f"{error}".splitlines()[0]
        raise LowRankError(
            f"{type(model).__name__} cannot be copied ({fault}); undo an old weight_norm with "
            "torch.nn.utils.remove_weight_norm"
        ) from None
    refuse_uncopied(model, copied)
    return copied
