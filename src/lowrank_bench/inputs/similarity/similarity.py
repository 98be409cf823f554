"""Sentences: the functions of `modality.Modality`, for transformers networks as they are."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.similarity.encoder import encoder_of, load_encoder
from lowrank_bench.inputs.similarity.sentences import (
    Encoded,
    batches,
    encode,
    read_encoded,
    write_encoded,
)
from lowrank_bench.inputs.similarity.vectors import predict, with_dense
from lowrank_bench.inputs.text.encode import tokenizer_name
from lowrank_bench.inputs.text.text import check_network, example, save_network

if TYPE_CHECKING:
    from lowrank_bench.inputs.training_loop import Watch

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
load_network = load_encoder


def initial_network(
    spec: Mapping[str, Any], folder: Path | None, inputs: Mapping[str, Any], seed: int
) -> tuple[nn.Module, Any]:
    """Return the encoder as it is; the seed decides nothing."""
    if folder is not None:
        return load_encoder(folder)
    from lowrank_bench.synthetic.networks import build_network

    model, tokenizer = build_network(spec["architecture"], spec["seed"], 1, **spec["sizes"])
    return encoder_of(model, str(spec["architecture"])), tokenizer


def published_network(
    spec: Mapping[str, Any],
    folder: Path,
    inputs: Mapping[str, Any],
    recipe: Mapping[str, Any],
    title: str,
) -> tuple[nn.Module, Any, list[int] | None]:
    """Return the encoder as it is; it has no outputs to order."""
    model, tokenizer = load_encoder(folder)
    return model, tokenizer, None


def train(
    model: nn.Module,
    processor: Any,
    encoded: Encoded,
    recipe: Mapping[str, Any],
    seed: int,
    device: str = "cpu",
    watch: "Watch | None" = None,
) -> dict[str, Any]:
    """Refuse to train: tasks of similarity take a network as it is.

    Raises
    ------
    LowRankError
        Always.
    """
    raise LowRankError("a task of similarity takes the network as it is and trains nothing")
