"""Make the checkpoint of one network, task and seed, or find it in the store."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lowrank_bench.cells import Checkpoint
from lowrank_bench.checkpoint.finetune import finetune
from lowrank_bench.checkpoint.pretrained import pretrained_network, training_rows
from lowrank_bench.checkpoint.published import output_order
from lowrank_bench.device import best_device
from lowrank_bench.download.data import download_data
from lowrank_bench.download.network import download_network
from lowrank_bench.errors import LowRankError
from lowrank_bench.layers.embedding import find_embedding
from lowrank_bench.layers.plain import refuse_unusual
from lowrank_bench.provenance import provenance
from lowrank_bench.store import Store
from lowrank_bench.text.encode import encode


def ensure_checkpoint(
    point: Checkpoint, store: Store, on_step: Callable[[int, int, float], None] | None = None
) -> Path:
    """Return the store's folder of a checkpoint, training or converting it when it is absent.

    Raises
    ------
    LowRankError
        When the network cannot be had, its label map disagrees with the task, training diverges,
        or its embedding is not finite.
    """
    found = store.folder("checkpoint", point.key, deep=True)
    if found:
        return found
    about: dict[str, Any] = {"checkpoint": point.title(), "recipe": dict(point.recipe)}
    with store.new_folder("checkpoint", point.key, about) as fresh:
        if "published_labels" in point.recipe:
            model, tokenizer = _published(point, store, about)
        else:
            model, tokenizer = _trained(point, store, about, on_step)
        name, embedding = find_embedding(model)
        refuse_unusual(model, name, embedding)
        if not torch.isfinite(embedding.weight).all():
            raise LowRankError(
                f"{point.title()}: the embedding {name} holds NaN or Inf; take another checkpoint"
                " or lower recipe.learning_rate"
            )
        about["embedding"] = f"{name}.weight"
        about |= provenance()
        model.to("cpu").save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
    return store.place("checkpoint", point.key)


def _trained(
    point: Checkpoint, store: Store, about: dict[str, Any], on_step: Callable | None
) -> tuple[nn.Module, Any]:
    data = download_data(point.data, store)
    model, tokenizer = initial_network(point, store)
    rows = pd.read_parquet(data / f"{point.recipe['train_split']}.parquet")
    rows = training_rows(rows, point.recipe["train_limit"])
    train = encode(rows, tokenizer, point.text)
    about["losses"] = finetune(
        model, tokenizer, train, point.recipe, point.seed, best_device(), on_step
    )
    about["train_rows"] = len(rows)
    return model, tokenizer


def initial_network(point: Checkpoint, store: Store) -> tuple[nn.Module, Any]:
    """Return the network before training, its classifier freshly drawn from the seed."""
    labels = point.text["labels"]
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


def _published(point: Checkpoint, store: Store, about: dict[str, Any]) -> tuple[nn.Module, Any]:
    folder = download_network(point.network, store)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    about["output_order"] = output_order(
        model.config, point.text["labels"], point.recipe["published_labels"], point.title()
    )
    return model.eval(), AutoTokenizer.from_pretrained(folder)
