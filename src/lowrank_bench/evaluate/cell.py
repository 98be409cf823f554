"""Evaluate all cells of one checkpoint in one process: load once, swap factors, predict."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lowrank_bench.cells import DENSE, Cell, Checkpoint, split_and_limit
from lowrank_bench.checkpoint.make import ensure_checkpoint
from lowrank_bench.device import best_device
from lowrank_bench.download.data import download_data, read_split
from lowrank_bench.evaluate.predict import predict
from lowrank_bench.evaluate.record import Record, write_record
from lowrank_bench.evaluate.retrain import retrain
from lowrank_bench.factorize.decompose import load_decomposition
from lowrank_bench.factorize.facts import checkpoint_text
from lowrank_bench.layers.embedding import find_embedding, swap_embedding
from lowrank_bench.linalg.certificate import certificate_columns, certify
from lowrank_bench.linalg.factors import Approximation
from lowrank_bench.linalg.lower_bounds import LowerBounds
from lowrank_bench.methods import make_method
from lowrank_bench.provenance import provenance
from lowrank_bench.store import Store
from lowrank_bench.text.encode import Encoded, encode


class CheckpointEvaluator:
    """A checkpoint in memory, with its tokenised splits, that evaluates cell after cell."""

    def __init__(
        self, point: Checkpoint, store: Store, max_tokens: int, device: str | None = None
    ) -> None:
        folder = ensure_checkpoint(point, store)
        self.point, self.store, self.max_tokens = point, store, max_tokens
        self.device = best_device(device)
        self.output_order = store.manifest(folder).get("output_order")
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
        self.model: nn.Module = model.to(self.device).eval()
        self.layer, embedding = find_embedding(self.model)
        self.matrix: Tensor = embedding.weight.detach().cpu().to(torch.float64)
        self.splits = _splits(point, store, self.tokenizer)
        self._loaded: tuple[str, Any, dict[str, Any]] | None = None
        self._training_text: Encoded | None = None
        self._bounds = LowerBounds(self.matrix)

    def evaluate(self, cell: Cell) -> None:
        """Predict with the network compressed and trained as `cell` says; store the record.

        Raises
        ------
        LowRankError
            When the method refuses the matrix or the budget.
        """
        facts = self._dense_facts() if cell.spec.method == DENSE else self._compress(cell)
        model = self._retrained(cell, facts) if cell.finetune_epochs else self.model
        start = time.perf_counter()
        settings = (self.max_tokens, self.device, self.output_order)
        predictions = {
            split: predict(model, self.tokenizer, encoded, *settings)
            for split, encoded in self.splits.items()
        }
        facts["evaluate_seconds"] = time.perf_counter() - start
        facts |= {"device": self.device, **provenance()}
        write_record(cell, Record(facts, predictions), self.store)

    def _retrained(self, cell: Cell, facts: dict[str, Any]) -> nn.Module:
        """Return a copy of the network as it is now, trained on."""
        if self._training_text is None:
            self._training_text = checkpoint_text(self.point, self.store, self.tokenizer)
        start, settings = time.perf_counter(), (self.point, cell.finetune_epochs, self.device)
        model, facts["losses"] = retrain(self.model, self.tokenizer, self._training_text, *settings)
        facts["finetune_seconds"] = time.perf_counter() - start
        return model

    def _dense_facts(self) -> dict[str, Any]:
        size = self.matrix.numel()
        return {
            "parameters_dense": size,
            "parameters_kept": size,
            **dict.fromkeys(("rel_error_fro", "rel_error_l1", "rel_error_l21"), 0.0),
            "index_bits": 0,
            "factorize_seconds": 0.0,
        }

    def _compress(self, cell: Cell) -> dict[str, Any]:
        rows, columns = self.matrix.shape
        rank = make_method(cell.spec.method, **cell.spec.params).rank_for(
            rows, columns, cell.compression
        )
        decomposition, about = self._decomposition(cell)
        factors: Approximation = decomposition.factors(rank)
        swap_embedding(self.model, self.layer, factors)
        kept, size = factors.n_parameters, self.matrix.numel()
        return {
            "parameters_dense": size,
            "parameters_kept": kept,
            "rank": rank,
            "index_bits": factors.index_bits,
            **certificate_columns(
                certify(self.matrix, factors, bounds=self._bounds, thorough=True)
            ),
            "factorize_seconds": about["seconds"],
        }

    def _decomposition(self, cell: Cell) -> tuple[Any, dict[str, Any]]:
        key = cell.spec_key
        if self._loaded is None or self._loaded[0] != key:
            where = (self.store, self.matrix)
            loaded = load_decomposition(self.point, cell.spec, cell.compression, *where)
            self._loaded = (key, *loaded)
        return self._loaded[1], self._loaded[2]


def _splits(point: Checkpoint, store: Store, tokenizer: Any) -> dict[str, Encoded]:
    data = download_data(point.data, store)
    missing = store.manifest(data)["missing"]
    return {
        name: encode(read_split(data, name), tokenizer, point.text)
        for name in point.evaluation
        if split_and_limit(name)[0] not in missing
    }


def evaluate_cells(
    cells: Iterable[Cell],
    store: Store,
    max_tokens: int,
    device: str | None,
    on_done: Callable[[Cell, Exception | None], None],
) -> None:
    """Evaluate cells checkpoint by checkpoint; `on_done` hears of each, with its error if any."""
    evaluator: CheckpointEvaluator | None = None
    for cell in cells:
        try:
            if evaluator is None or evaluator.point.key != cell.checkpoint.key:
                evaluator = CheckpointEvaluator(cell.checkpoint, store, max_tokens, device)
            evaluator.evaluate(cell)
        except Exception as error:  # a cell that cannot run is a row with a reason
            on_done(cell, error)
        else:
            on_done(cell, None)
