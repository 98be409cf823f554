"""Texts: the functions of `modality.Modality`, for sequence classifiers from transformers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.checked import load_model, load_tokenizer
from lowrank_bench.inputs.labels import output_order
from lowrank_bench.inputs.text.batches import batches
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
    "with_dense",
    "write_encoded",
]

processor_name = tokenizer_name


def initial_network(
    spec: Mapping[str, Any], folder: Path | None, inputs: Mapping[str, Any], seed: int
) -> tuple[nn.Module, Any]:
    """Return the network before training; the seed decides the new classifier's weights."""
    labels = inputs["labels"]
    if folder is None:
        from lowrank_bench.synthetic.networks import build_network

        model, tokenizer = build_network(
            spec["architecture"], spec["seed"], max(1, len(labels)), seed, **spec["sizes"]
        )
    else:
        model, tokenizer = pretrained_network(folder, labels, seed)
    if labels:
        config: Any = model.config  # of transformers
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: number for number, label in enumerate(labels)}
    return model, tokenizer


def published_network(
    spec: Mapping[str, Any],
    folder: Path,
    inputs: Mapping[str, Any],
    recipe: Mapping[str, Any],
    title: str,
) -> tuple[nn.Module, Any, list[int] | None]:
    """Return a checkpoint that others fine-tuned, and the number of its output for each label."""
    model, tokenizer = load_network(folder)
    labels, declared = inputs["labels"], recipe["published_labels"]
    return model, tokenizer, output_order(model.config, labels, declared, title)


def check_network(model: nn.Module, title: str) -> dict[str, Any]:
    """Refuse a network whose embedding cannot be replaced; return the embedding's name.

    Raises
    ------
    LowRankError
        When the embedding cannot be replaced, or holds NaN or Inf.
    """
    name, embedding = find_embedding(model)
    refuse_unusual(model, name, embedding)
    if not torch.isfinite(embedding.weight).all():
        raise LowRankError(
            f"{title}: the embedding {name} contains NaN or Inf; use another checkpoint"
            " or lower recipe.learning_rate"
        )
    return {"embedding": f"{name}.weight"}


def save_network(model: nn.Module, processor: Any, folder: Path) -> None:
    """Write network and tokenizer in the format of transformers."""
    save: Any = model.save_pretrained  # a method of every transformers model
    save(folder)
    processor.save_pretrained(folder)


def load_network(folder: Path) -> tuple[nn.Module, Any]:
    """Return network and tokenizer, float32, in evaluation mode."""
    model = load_model(AutoModelForSequenceClassification, folder, dtype=torch.float32)
    return model, load_tokenizer(folder)


def example(processor: Any, length: int) -> dict[str, Tensor]:
    """Return the keyword arguments of one forward pass, for a text of `length` random tokens."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(len(processor), (1, length), generator=generator)
    arguments = {
        "input_ids": ids,
        MASK: torch.ones_like(ids),
        "token_type_ids": torch.zeros_like(ids),
    }
    names = processor.model_input_names
    return {name: values for name, values in arguments.items() if name in names}


def with_dense(
    model: nn.Module, processor: Any, encoded: Encoded, max_tokens: int, device: str
) -> Encoded:
    """Return the rows as they are: logits are compared with labels, not with the dense network."""
    return encoded
