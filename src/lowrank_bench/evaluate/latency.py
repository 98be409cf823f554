"""Measure the networks of an experiment, dense and compressed in turn, one after the other."""

import copy
import sys
from collections.abc import Iterator
from typing import Any

import pandas as pd
from torch import nn

from lowrank_bench.checkpoint.make import ensure_checkpoint
from lowrank_bench.config import Config
from lowrank_bench.device import best_device
from lowrank_bench.errors import LowRankError
from lowrank_bench.evaluate.compare import measure
from lowrank_bench.evaluate.compressed import compressor_for
from lowrank_bench.inputs.modality import modality_of
from lowrank_bench.plan.cells import DENSE, Cell
from lowrank_bench.plan.grid import Plan
from lowrank_bench.store.store import Store

COLUMNS = {
    "model": "network",
    "label": "method with its parameters",
    "target": "layers that were replaced",
    "compression": "share that was to be saved",
    "batch": "rows of the batch",
    "length": "tokens of a row; 0 for images",
    "ratio": "best dense seconds over best compressed ones; above 1 is faster",
    "median_ratio": "the same of the medians",
    "dense_seconds": "best seconds of a dense forward",
    "compressed_seconds": "best seconds of a compressed forward",
    "memory_ratio": "dense peak memory over compressed",
    "file_ratio": "dense bytes on disk over compressed",
    "device": "cpu, cuda or mps",
    "clock": "what was counted as seconds",
    "threads": "threads on the CPU",
    "load": "the machine's load average after the measurement",
    "reason": "why nothing was measured; empty otherwise",
}


def measure_experiment(config: Config, plan: Plan) -> pd.DataFrame:
    """Return one row for each network, method, compression and batch size, columns `COLUMNS`.

    A network is measured as it was trained on the first of its tasks, with the first seed: other
    weights of the same shapes take as long.
    """
    rows = []
    for dense, cells in _networks(plan):
        print(f"[latency] {dense.checkpoint.model}: {len(cells)} networks", file=sys.stderr)
        rows += list(_rows(config, dense, cells))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _networks(plan: Plan) -> Iterator[tuple[Cell, list[Cell]]]:
    """Yield each network's dense cell and those compressed from the same checkpoint."""
    seen = set()
    for job in plan.checkpoint:
        for dense in job.cells():
            if dense.checkpoint.model in seen:
                continue
            seen.add(dense.checkpoint.model)
            key = dense.checkpoint.key
            cells = (cell for other in plan.evaluate for cell in other.cells())
            own = [c for c in cells if c.checkpoint.key == key and c.spec.method != DENSE]
            yield dense, own


def _rows(config: Config, dense: Cell, cells: list[Cell]) -> Iterator[dict[str, Any]]:
    store, point, asked = Store(config.store), dense.checkpoint, config.latency
    modality = modality_of(point)
    network, processor = modality.load_network(ensure_checkpoint(point, store))
    device = best_device(config.evaluation.device)
    compressor = compressor_for(cells[0], store, copy.deepcopy(network)) if cells else None
    network.to(device)
    for cell in cells:
        for length in asked.lengths if point.modality == "text" else [0]:
            example = modality.example(processor, length)
            example = {name: value.to(device) for name, value in example.items()}
            for batch in asked.batches:
                row = {
                    "model": point.model,
                    "label": cell.spec.label,
                    "target": cell.spec.target,
                    "compression": cell.compression,
                    "batch": batch,
                    "length": length,
                    "reason": "",
                }
                try:
                    compressed = compressor.network(cell)[0].to(device)
                    settings = (batch, asked.repeats, asked.warm_up, asked.threads)
                    yield row | _measured(network, compressed, example, settings)
                except LowRankError as error:  # the cell's own row says so as well
                    yield row | {"reason": str(error)}


def _measured(
    dense: nn.Module, compressed: nn.Module, example: Any, settings: tuple[int, int, int, int]
) -> dict[str, Any]:
    found = measure(dense, compressed, example, *settings)
    return {
        "ratio": found.ratio,
        "median_ratio": found.median_ratio,
        "dense_seconds": found.dense.best,
        "compressed_seconds": found.compressed.best,
        "memory_ratio": found.dense.peak_bytes / found.compressed.peak_bytes,
        "file_ratio": found.dense.file_bytes / found.compressed.file_bytes,
        "device": found.device,
        "clock": found.clock,
        "threads": found.threads,
        "load": found.load,
    }
