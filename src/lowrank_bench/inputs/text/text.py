"""Texts: the functions that `modality.Modality` lists, over transformers' sequence classifiers."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lowrank_bench.download.network import download_network
from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.labels import output_order
from lowrank_bench.inputs.text.batches import Collator
from lowrank_bench.inputs.text.encode import (
    MASK,
    Encoded,
    encode,
    read_encoded,
    tokenizer_name,
    write_encoded,
)
from lowrank_bench.inputs.text.finetune import finetune as train
from lowrank_bench.inputs.text.predict import predict
from lowrank_bench.inputs.text.pretrained import pretrained_network
from lowrank_bench.layers.embedding import find_embedding
from lowrank_bench.layers.plain import refuse_unusual
from lowrank_bench.plan.cells import Checkpoint
from lowrank_bench.store.store import Store

__all__ = [
    "batches",
    "check_network",
    "encode",
    "example",
    "initial_network",
    "load_network",
    "predict",
    "processor_name",
    "published_network",
    "read_encoded",
    "save_network",
    "train",
    "write_encoded",
]

processor_name = tokenizer_name


def initial_network(point: Checkpoint, store: Store) -> tuple[nn.Module, Any]:
    """Return the network before training, its classifier freshly drawn from the seed."""
    labels = point.inputs["labels"]
    if point.network.spec["kind"] == "synthetic":
        from lowrank_bench.synthetic.networks import build_network

        spec = point.network.spec
        model, tokenizer = build_network(
            spec["architecture"], spec["seed"], max(1, len(labels)), point.seed, **spec["sizes"]
        )
    else:
        folder = download_network(point.network, store)
        model, tokenizer = pretrained_network(folder, labels, point.seed)
    if labels:
        model.config.id2label = dict(enumerate(labels))
        model.config.label2id = {label: number for number, label in enumerate(labels)}
    return model, tokenizer


def published_network(
    point: Checkpoint, store: Store, about: dict[str, Any]
) -> tuple[nn.Module, Any]:
    """Return a checkpoint that others fine-tuned, after a look at what its outputs mean."""
    model, tokenizer = load_network(download_network(point.network, store))
    about["output_order"] = output_order(
        model.config, point.inputs["labels"], point.recipe["published_labels"], point.title()
    )
    return model, tokenizer


def check_network(model: nn.Module, title: str) -> dict[str, Any]:
    """Refuse a network whose embedding cannot be replaced or is not finite."""
    name, embedding = find_embedding(model)
    refuse_unusual(model, name, embedding)
    if not torch.isfinite(embedding.weight).all():
        raise LowRankError(
            f"{title}: the embedding {name} holds NaN or Inf; take another checkpoint"
            " or lower recipe.learning_rate"
        )
    return {"embedding": f"{name}.weight"}


def save_network(model: nn.Module, processor: Any, folder: Path) -> None:
    """Write network and tokenizer as transformers does."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def load_network(folder: Path) -> tuple[nn.Module, Any]:
    """Return network and tokenizer, float32, in evaluation mode."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def example(processor: Any, length: int) -> dict[str, Tensor]:
    """Return the keyword arguments of a forward of one text: words drawn at random, seeded."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(len(processor), (1, length), generator=generator)
    known = {"input_ids": ids, MASK: torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    return {name: values for name, values in known.items() if name in processor.model_input_names}


def batches(
    encoded: Encoded, processor: Any, rows: Sequence[int], device: str, batch_size: int
) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Yield padded inputs and labels, rows in the order given."""
    collate = Collator(processor, device)
    for start in range(0, len(rows), batch_size):
        some = np.asarray(rows[start : start + batch_size])
        yield collate(encoded, some), torch.as_tensor(encoded.labels[some], device=device)
