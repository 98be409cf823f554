"""The latency stage: networks of an experiment measured one after the other, dense in turn."""

import sys
from collections.abc import Iterator
from typing import Any

import pandas as pd

from lowrank_bench.config import Config
from lowrank_bench.device import best_device
from lowrank_bench.errors import LowRankError, TransientError
from lowrank_bench.evaluate.latency import COLUMNS, measured_costs
from lowrank_bench.plan.cells import DENSE, Cell
from lowrank_bench.plan.grid import Plan
from lowrank_bench.stages.checkpoint import load_checkpoint
from lowrank_bench.stages.evaluate import CheckpointEvaluator
from lowrank_bench.stages.runner import Runner
from lowrank_bench.stages.settings import settings_of
from lowrank_bench.store.store import Store


def run_latency(config: Config, plan: Plan) -> pd.DataFrame:
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
            compressed = (cell for cell in cells if cell.spec.method != DENSE)
            yield dense, [cell for cell in compressed if cell.checkpoint.key == key]


def _rows(config: Config, dense: Cell, cells: list[Cell]) -> Iterator[dict[str, Any]]:
    checkpoint, wanted = dense.checkpoint, config.latency
    runner = Runner(Store(config.store), settings_of(config))
    device = best_device(config.evaluation.device)
    with runner.watched(checkpoint.title):
        loaded = load_checkpoint(checkpoint, runner)
        network = loaded.model.to(device)
        # Embeddings are swapped in place, so the dense network must be a copy.
        evaluator = CheckpointEvaluator(checkpoint, runner) if cells else None
    for cell in cells:
        assert evaluator is not None
        for length in [0] if checkpoint.modality == "image" else wanted.lengths:
            example = loaded.modality.example(loaded.processor, length)
            example = {name: value.to(device) for name, value in example.items()}
            for batch in wanted.batches:
                row = {
                    "model": checkpoint.model,
                    "label": cell.spec.label,
                    "target": cell.spec.target,
                    "compression": cell.compression,
                    "batch": batch,
                    "length": length,
                    "reason": "",
                }
                try:
                    with runner.watched(cell.title):
                        compressed = evaluator.network(cell)[0].to(device)
                    settings = (batch, wanted.repeats, wanted.warm_up, wanted.threads)
                    yield row | measured_costs(network, compressed, example, *settings)
                except TransientError:
                    raise
                except LowRankError as error:  # the cell's own row says so as well
                    yield row | {"reason": str(error)}
