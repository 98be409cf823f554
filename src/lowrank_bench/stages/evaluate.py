"""The evaluate and finetune stages: predictions of compressed networks, cell after cell."""

import time
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from lowrank_bench.artifact import load, save
from lowrank_bench.device import best_device, device_of, in_precision
from lowrank_bench.evaluate.compressed import SwappedEmbedding
from lowrank_bench.evaluate.predictions import predict_splits
from lowrank_bench.evaluate.retrain import retrain
from lowrank_bench.inputs.modality import Encoded
from lowrank_bench.inputs.splits import split_and_range
from lowrank_bench.linalg.decomposition import Decomposition
from lowrank_bench.methods import MatrixMethod, make_method, network_method
from lowrank_bench.network.compress import counted
from lowrank_bench.plan.cells import DENSE, Cell, Checkpoint
from lowrank_bench.stages.checkpoint import load_checkpoint, watch_for
from lowrank_bench.stages.download import DataStep
from lowrank_bench.stages.encode import EncodedStep
from lowrank_bench.stages.factorize import (
    NETWORK,
    read_compressed,
    read_problem,
    read_tensors,
)
from lowrank_bench.stages.left_out import left_out_by, left_out_of
from lowrank_bench.stages.record import Record, read_record, write_record
from lowrank_bench.stages.runner import Runner
from lowrank_bench.store.provenance import provenance
from lowrank_bench.store.store import Artifact, Store

TRAINED = "trained"  # kind of networks that were compressed and trained, where that is iterated


class CheckpointEvaluator:
    """A checkpoint in memory with its encoded splits; it evaluates cell after cell.

    Parameters
    ----------
    checkpoint
        Read once, with the rows of all its splits.
    runner
        Finds the artifacts, or has them made.
    """

    def __init__(self, checkpoint: Checkpoint, runner: Runner) -> None:
        loaded = load_checkpoint(checkpoint, runner)
        self.loaded, self.checkpoint, self.runner = loaded, checkpoint, runner
        self.modality = loaded.modality
        self.device = best_device(runner.settings.device)
        self.model: nn.Module = loaded.model.to(self.device)
        self._rows: dict[str, Encoded] | None = None
        self._table: SwappedEmbedding | None = None
        self._decomposition: tuple[str, Decomposition, dict[str, Any]] | None = None
        self._training_rows: Encoded | None = None

    def evaluate(self, cell: Cell) -> None:
        """Predict with the network compressed and trained as `cell` says; store the record.

        Raises
        ------
        LowRankError
            When the method refuses the network or the budget, or training diverges.
        """
        splits = self.splits  # read before the dense network's table is swapped
        model, facts = self._compressed_again(cell) if cell.path else self.network(cell)
        if cell.finetune_epochs:
            model = self._retrained(model, cell, facts)
        predictions, seconds = predict_splits(
            self.modality,
            model,
            self.loaded.processor,
            splits,
            self.runner.settings.max_tokens,
            self.device,
            self.loaded.output_order,
            self.runner.settings.precision,
        )
        facts |= {"evaluate_seconds": seconds, "device": self.device, **provenance()}
        write_record(cell, Record(facts, predictions), self.runner.store)

    def network(self, cell: Cell) -> tuple[nn.Module, dict[str, Any]]:
        """Return the network that a cell asks for, without training after it, and its facts.

        An embedding is swapped in place: the network is that of this cell until the next call.

        Raises
        ------
        LowRankError
            When the method refuses the network or the budget.
        """
        if cell.spec.target == "embedding":
            return self._swapped(cell)
        if cell.spec.method == DENSE:
            problem = read_problem(self.checkpoint, cell.spec, self.runner)
            facts = {**counted(problem, problem.model), "left_out": left_out_by(problem)}
            return self.model, {**facts, "factorize_seconds": 0.0}
        model, manifest = read_compressed(cell, self.model, self.runner)
        facts = {**manifest["info"], "layers": manifest["layers"]}
        model = model.to(device_of(self.model))
        return model, {**facts, "factorize_seconds": manifest["seconds"]}

    def _swapped(self, cell: Cell) -> tuple[nn.Module, dict[str, Any]]:
        """Return the network with its embedding swapped for the factors of a cell."""
        if self._table is None:
            self._table = SwappedEmbedding(self.model)
        table = self._table
        if cell.spec.method == DENSE:
            left_out = left_out_of(self.model, table.layer)
            return self.model, {**table.dense_facts(), "left_out": left_out}
        method = make_method(cell.spec.method, **cell.spec.params)
        assert isinstance(method, MatrixMethod)
        # One decomposition serves all compressions of a nested method: it is read once.
        if self._decomposition is None or self._decomposition[0] != cell.spec_key:
            tensors, manifest = read_tensors(cell, self.runner)
            restored = table.restored(method, tensors)
            self._decomposition = (cell.spec_key, restored, manifest)
        _, decomposition, manifest = self._decomposition
        facts = table.swap(method, decomposition, cell.compression, cell.spec.budget)
        return self.model, {**facts, "factorize_seconds": manifest["seconds"]}

    def _compressed_again(self, cell: Cell) -> tuple[nn.Module, dict[str, Any]]:
        """Return the trained network of the compression before, compressed once more."""
        from lowrank_bench.factorize.again import compress_trained

        assert cell.path
        before = replace(cell, compression=cell.path[-1], path=cell.path[:-1])
        stored = self.runner.ensure(TrainedStep(before, self))
        trained = load(stored.folder / NETWORK, model=self.model)
        origin = read_problem(cell.checkpoint, cell.spec, self.runner)
        method = network_method(make_method(cell.spec.method, **cell.spec.params), cell.spec.target)
        return compress_trained(trained, origin, method, cell.compression)

    def _retrained(self, model: nn.Module, cell: Cell, facts: dict[str, Any]) -> nn.Module:
        """Return a copy of the compressed network that was trained further."""
        loaded, checkpoint, runner = self.loaded, self.checkpoint, self.runner
        if self._training_rows is None:
            self._training_rows = loaded.training_rows(runner)
        start, order = time.perf_counter(), loaded.output_order
        watch = watch_for(
            checkpoint, runner, (loaded.modality, loaded.processor), cell.key, output_order=order
        )
        settings = (checkpoint.training_recipe, cell.finetune_epochs, checkpoint.seed)
        network = (self.modality, model, loaded.processor, self._training_rows)
        trained, history = retrain(*network, *settings, self.device, watch)
        facts |= history
        facts["finetune_seconds"] = time.perf_counter() - start
        if cell.path is not None:
            with runner.store.new_folder(TRAINED, cell.key, {"cell": cell.title()}) as fresh:
                save(trained, fresh / NETWORK)
        return trained

    @property
    def splits(self) -> dict[str, Encoded]:
        """Return the rows of each split, read once, with what the dense network says of them."""
        if self._rows is None and self.checkpoint.modality != "similarity":
            self._rows = self._encoded()  # of classifiers the dense network need not be asked
        if self._rows is None:
            settings = self.runner.settings
            dense = in_precision(self.model, settings.precision)
            network = (dense, self.loaded.processor)
            self._rows = {
                name: self.modality.with_dense(*network, rows, settings.max_tokens, self.device)
                for name, rows in self._encoded().items()
            }
        return self._rows

    def _encoded(self) -> dict[str, Encoded]:
        checkpoint, runner = self.checkpoint, self.runner
        missing = runner.ensure(DataStep(checkpoint.data, check=False)).manifest["missing"]
        network = (checkpoint, self.loaded.modality, self.loaded.processor)
        return {
            name: EncodedStep(*network, name).read(runner)
            for name in checkpoint.evaluation
            if split_and_range(name)[0] not in missing
        }


@dataclass(frozen=True)
class TrainedStep:
    """A network that was compressed and trained, on which the next compression rests."""

    cell: Cell
    evaluator: CheckpointEvaluator

    def lookup(self, store: Store) -> Artifact | None:
        """Return the network."""
        return store.artifact(TRAINED, self.cell.key)

    def make(self, runner: Runner) -> None:
        """Evaluate the cell, which leaves its trained network."""
        self.evaluator.evaluate(self.cell)

    def title(self) -> str:
        """Return a short name for messages."""
        return self.cell.title()


class CellStep:
    """The record of one cell.

    Parameters
    ----------
    evaluators
        The checkpoint that was read last, by its key; cells of the same one share it.
    """

    def __init__(
        self, cell: Cell, evaluators: dict[str, CheckpointEvaluator] | None = None
    ) -> None:
        self.cell = cell
        self.evaluators = {} if evaluators is None else evaluators

    def lookup(self, store: Store) -> Record | None:
        """Return the record."""
        return read_record(self.cell, store)

    def make(self, runner: Runner) -> None:
        """Evaluate the cell.

        Raises
        ------
        LowRankError
            As `CheckpointEvaluator.evaluate`.
        """
        key = self.cell.checkpoint.key
        if key not in self.evaluators:
            self.evaluators.clear()  # one network in memory at a time
            self.evaluators[key] = CheckpointEvaluator(self.cell.checkpoint, runner)
        self.evaluators[key].evaluate(self.cell)

    def title(self) -> str:
        """Return a short name for messages."""
        return self.cell.title()
