"""Evaluate all cells of one checkpoint in one process: load once, swap what changes, predict."""

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from lowrank_bench.artifact import load, save
from lowrank_bench.checkpoint.make import ensure_checkpoint
from lowrank_bench.checkpoint.training import encoded_split, training_set, watch_over
from lowrank_bench.device import best_device, in_precision
from lowrank_bench.download.data import download_data
from lowrank_bench.evaluate.compressed import Compressor, compressor_for
from lowrank_bench.evaluate.record import Record, write_record
from lowrank_bench.evaluate.retrain import retrain
from lowrank_bench.factorize.network import FOLDER, compress_trained
from lowrank_bench.inputs.modality import Encoded, modality_of
from lowrank_bench.plan.cells import Cell, Checkpoint, split_and_range
from lowrank_bench.store.provenance import provenance
from lowrank_bench.store.store import Store


class CheckpointEvaluator:
    """A checkpoint in memory, with its encoded splits, that evaluates cell after cell."""

    def __init__(
        self,
        point: Checkpoint,
        store: Store,
        max_tokens: int,
        device: str | None = None,
        precision: str = "fp32",
    ) -> None:
        folder = ensure_checkpoint(point, store)
        self.point, self.store = point, store
        self.max_tokens, self.precision = max_tokens, precision
        self.device, self.modality = best_device(device), modality_of(point)
        self.output_order = store.manifest(folder).get("output_order")
        model, self.processor = self.modality.load_network(folder)
        self.model: nn.Module = model.to(self.device)
        self.splits = self._splits()
        self._compressors: dict[str, Compressor] = {}
        self._training_set: Encoded | None = None

    def evaluate(self, cell: Cell) -> None:
        """Predict with the network compressed and trained as `cell` says; store the record.

        Raises
        ------
        LowRankError
            When the method refuses the network or the budget.
        """
        if cell.path:
            model, facts = self._compressed_again(cell)
        else:
            model, facts = self._compressor(cell).network(cell)
        if cell.finetune_epochs:
            model = self._retrained(model, cell, facts)
        start = time.perf_counter()
        settings = (self.max_tokens, self.device, self.output_order)
        model = in_precision(model, self.precision)
        predictions = {
            split: self.modality.predict(model, self.processor, encoded, *settings)
            for split, encoded in self.splits.items()
        }
        facts["evaluate_seconds"] = time.perf_counter() - start
        facts |= {"device": self.device, **provenance()}
        write_record(cell, Record(facts, predictions), self.store)

    def _compressor(self, cell: Cell) -> Compressor:
        target = cell.spec.target
        if target not in self._compressors:
            self._compressors[target] = compressor_for(cell, self.store, self.model)
        return self._compressors[target]

    def _compressed_again(self, cell: Cell) -> tuple[nn.Module, dict[str, Any]]:
        """Return the network of the compression before, trained, after one compression more."""
        before = replace(cell, compression=cell.path[-1], path=cell.path[:-1])
        if not self.store.folder("trained", before.key):
            self.evaluate(before)
        folder = self.store.place("trained", before.key) / FOLDER
        return compress_trained(load(folder, model=self.model), cell, self.store)

    def _retrained(self, model: nn.Module, cell: Cell, facts: dict[str, Any]) -> nn.Module:
        """Return a copy of the compressed network, trained on."""
        if self._training_set is None:
            self._training_set = training_set(self.point, self.store, self.processor)
        start, order = time.perf_counter(), self.output_order
        watch = watch_over(self.point, self.store, self.processor, cell.key, order=order)
        settings = (self.point, cell.finetune_epochs, self.device, watch)
        trained, found = retrain(model, self.processor, self._training_set, *settings)
        facts |= found
        facts["finetune_seconds"] = time.perf_counter() - start
        if cell.path is not None:
            with self.store.new_folder("trained", cell.key, {"cell": cell.title()}) as fresh:
                save(trained, fresh / FOLDER)
        return trained

    def _splits(self) -> dict[str, Encoded]:
        data = download_data(self.point.data, self.store)
        missing = self.store.manifest(data)["missing"]
        return {
            name: encoded_split(self.point, self.store, self.processor, name)
            for name in self.point.evaluation
            if split_and_range(name)[0] not in missing
        }


def evaluate_cells(
    cells: Iterable[Cell],
    store: Store,
    max_tokens: int,
    device: str | None,
    on_done: Callable[[Cell, Exception | None], None],
    precision: str = "fp32",
) -> None:
    """Evaluate cells checkpoint by checkpoint; `on_done` hears of each, with its error if any."""
    evaluator: CheckpointEvaluator | None = None
    for cell in cells:
        try:
            if evaluator is None or evaluator.point.key != cell.checkpoint.key:
                evaluator = CheckpointEvaluator(
                    cell.checkpoint, store, max_tokens, device, precision
                )
            evaluator.evaluate(cell)
        except Exception as error:  # a cell that cannot run is a row with a reason
            on_done(cell, error)
        else:
            on_done(cell, None)
