"""What is known of the rows of a checkpoint's embedding: found once, kept in the store."""

from collections.abc import Iterable
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer

from lowrank_bench.checkpoint.make import ensure_checkpoint
from lowrank_bench.checkpoint.training import training_set
from lowrank_bench.device import best_device
from lowrank_bench.factorize.fisher import fisher_information
from lowrank_bench.inputs.modality import modality_of
from lowrank_bench.inputs.text.counts import token_counts
from lowrank_bench.plan.cells import Checkpoint
from lowrank_bench.plan.grid import FACT_SOURCES
from lowrank_bench.store.digest import code_digest, digest
from lowrank_bench.store.store import Store

FILE = "facts.safetensors"
BATCH_TOKENS = 4096


def row_facts(
    point: Checkpoint, store: Store, needs: Iterable[str], rows: int
) -> dict[str, Tensor]:
    """Return the named facts about an embedding of `rows` rows, n float64 each.

    Raises
    ------
    LowRankError
        When the checkpoint cannot be made, or its tokenizer tells nothing about frequency.
    """
    return {name: _fact(name, point, store, rows) for name in needs}


def _fact(name: str, point: Checkpoint, store: Store, rows: int) -> Tensor:
    key = digest([point.key, name, rows, code_digest(*FACT_SOURCES[name])])
    found = store.folder("facts", key, deep=True)
    if not found:
        with store.new_folder("facts", key, {"checkpoint": point.title(), "fact": name}) as fresh:
            save_file({name: MAKERS[name](point, store, rows)}, fresh / FILE)
        found = store.place("facts", key)
    return load_file(found / FILE)[name]


def _frequency(point: Checkpoint, store: Store, rows: int) -> Tensor:
    from lowrank_bench.inputs.text.vocabulary import vocabulary_frequency

    return vocabulary_frequency(_tokenizer(point, store), rows)


def _counts(point: Checkpoint, store: Store, rows: int) -> Tensor:
    encoded: Any = training_set(point, store, _tokenizer(point, store))
    return token_counts([encoded.tokens["input_ids"]], rows)


def _fisher(point: Checkpoint, store: Store, rows: int) -> Tensor:
    model, tokenizer = modality_of(point).load_network(ensure_checkpoint(point, store))
    encoded: Any = training_set(point, store, tokenizer)
    device = best_device()
    return fisher_information(model, tokenizer, encoded, BATCH_TOKENS, device, point.seed)


MAKERS = {"frequency": _frequency, "counts": _counts, "fisher": _fisher}


def _tokenizer(point: Checkpoint, store: Store) -> Any:
    return AutoTokenizer.from_pretrained(ensure_checkpoint(point, store))
