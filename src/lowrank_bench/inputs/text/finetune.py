"""Fine-tune a sequence classifier on one task: AdamW, linear warm-up and decay."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import get_linear_schedule_with_warmup

from lowrank_bench.device import autocast
from lowrank_bench.inputs.text.batches import Collator, shuffled
from lowrank_bench.inputs.text.encode import Encoded
from lowrank_bench.inputs.training_loop import NumpyRandom, TorchRandom, Training, Watch


def finetune(
    model: nn.Module,
    tokenizer: Any,
    train: Encoded,
    recipe: Mapping[str, Any],
    seed: int,
    device: str = "cpu",
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Train `model` in place and return the mean loss of each epoch as `losses`.

    Parameters
    ----------
    model
        A transformers sequence classifier; with one output it is trained as a regression.
    train, recipe
        Tokenised rows; fields of `config.schema.Recipe` (`bf16` keeps the weights in fp32;
        `freeze: embedding` leaves the table, or its factors, as they are).
    seed
        Decides batches and dropout.

    Raises
    ------
    LowRankError
        When the loss stops being finite.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model.to(device).train()
    per_epoch = math.ceil(len(train) / recipe["batch_size"])
    steps = per_epoch * recipe["epochs"]
    collate, lengths = Collator(tokenizer, device), train.lengths
    with _frozen(model, recipe.get("freeze")):
        groups = _groups(model, recipe["weight_decay"])
        optimizer = torch.optim.AdamW(groups, lr=recipe["learning_rate"], fused=True)
        warmup = round(recipe["warmup"] * steps)
        schedule = get_linear_schedule_with_warmup(optimizer, warmup, steps)

        def batches() -> list[Tensor]:
            """Return the batches of an epoch."""
            return [torch.from_numpy(b) for b in shuffled(lengths, recipe["batch_size"], rng)]

        def step(rows: Tensor) -> float:
            """Train on one batch and return its loss."""
            some = rows.numpy()
            inputs = collate(train, some)
            loss = _loss(model, inputs, train.labels[some], recipe["precision"], device)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), recipe["max_grad_norm"])
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            return loss.item()

        parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
        random = {"batches": NumpyRandom(rng), "dropout": TorchRandom()}
        training = Training({**parts, **random}, batches, step, watch)
        found = training.run(recipe["epochs"], per_epoch)
    model.eval()
    return found


@contextmanager
def _frozen(model: nn.Module, part: str | None) -> Iterator[None]:
    """Keep the embedding from being trained, if that is asked for."""
    embedding = model.get_input_embeddings() if part == "embedding" else None
    held = [p for p in embedding.parameters() if p.requires_grad] if embedding else []
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)


def _loss(
    model: nn.Module,
    batch: dict[str, torch.Tensor],
    labels: np.ndarray,
    precision: str,
    device: str,
) -> torch.Tensor:
    target = torch.as_tensor(labels, device=device)
    with autocast(device, precision):
        logits = model(**batch).logits
    if logits.shape[-1] == 1:
        return nn.functional.mse_loss(logits.float().squeeze(-1), target.float())
    return nn.functional.cross_entropy(logits.float(), target)


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices only: biases and normalisation scales are vectors."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
