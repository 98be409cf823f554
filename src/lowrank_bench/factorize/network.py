"""One compressed network of one checkpoint, from the store or computed."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from lowrank_bench.artifact import load, save
from lowrank_bench.checkpoint.make import ensure_checkpoint
from lowrank_bench.checkpoint.training import training_set
from lowrank_bench.device import device_of
from lowrank_bench.inputs.modality import modality_of
from lowrank_bench.latency import seconds_for
from lowrank_bench.methods import make_method, network_method
from lowrank_bench.network.compress import compress_within
from lowrank_bench.network.problem import NetworkProblem
from lowrank_bench.network.restore import densified
from lowrank_bench.plan.cells import Cell, Checkpoint, Spec
from lowrank_bench.problem import data_used
from lowrank_bench.store.provenance import provenance
from lowrank_bench.store.store import Store

FOLDER = "network"


def network_problem(
    point: Checkpoint, spec: Spec, store: Store, device: str = "cpu"
) -> NetworkProblem:
    """Return a checkpoint as methods for whole networks see it, with calibration data."""
    modality = modality_of(point)
    model, processor = modality.load_network(ensure_checkpoint(point, store))
    model.to(device)
    wanted = spec.settings["calibration"]
    encoded = training_set(point, store, processor, wanted["rows"])
    rows = range(len(encoded))

    def _batches() -> Iterator[Any]:
        return modality.batches(encoded, processor, rows, device, wanted["batch_size"])

    example, _ = next(modality.batches(encoded, processor, rows[:1], device, 1))
    budget = spec.settings["budget"]
    words: dict[str, Any] = {"seed": point.seed, "seconds": seconds_for(budget)}
    return NetworkProblem(model, spec.target, example, _batches, budget, **words)


def ensure_compressed(
    point: Checkpoint,
    spec: Spec,
    compression: float,
    store: Store,
    problem: NetworkProblem | None = None,
) -> Path:
    """Return the store's folder of a compressed network, computing it when it is absent."""
    key = spec.key(point, compression)
    found = store.folder("decomposition", key, deep=True)
    if found:
        return found
    problem = problem or network_problem(point, spec, store)
    start = time.perf_counter()
    method = network_method(make_method(spec.method, **spec.params), spec.target)
    result = compress_within(problem, method, compression)
    about: dict[str, Any] = {
        "checkpoint": point.title(),
        "method": spec.label,
        "data_used": data_used(spec.needs),
        "seconds": time.perf_counter() - start,
        "device": device_of(problem.model).type,
        "layers": result.layers,
        "info": result.info,
        **provenance(),
    }
    with store.new_folder("decomposition", key, about) as fresh:
        save(result.model, fresh / FOLDER)
    return store.place("decomposition", key)


def load_compressed(
    point: Checkpoint, spec: Spec, compression: float, store: Store, dense: nn.Module
) -> tuple[nn.Module, dict[str, Any]]:
    """Return a compressed network and what its writer noted, computing it when it is absent."""
    folder = ensure_compressed(point, spec, compression, store)
    return load(folder / FOLDER, model=dense), store.manifest(folder)


def compress_trained(
    trained: nn.Module, cell: Cell, store: Store
) -> tuple[nn.Module, dict[str, Any]]:
    """Return a network compressed before and trained since, compressed once more, and facts.

    Factors are multiplied out first; budgets are shares of the network as it was at first.
    """
    origin = network_problem(cell.checkpoint, cell.spec, store)
    again = densified(trained).to(device_of(origin.model))
    problem = replace(origin, model=again, origin=origin, _memo={})
    start = time.perf_counter()
    method = network_method(make_method(cell.spec.method, **cell.spec.params), problem.target)
    found = compress_within(problem, method, cell.compression)
    facts = {**found.info, "layers": found.layers}
    return found.model, {**facts, "factorize_seconds": time.perf_counter() - start}
