"""Fine-tune a sequence classifier on one task: AdamW, linear warm-up and decay."""

import contextlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import get_linear_schedule_with_warmup

from lowrank_bench.errors import LowRankError
from lowrank_bench.text.batches import Collator, shuffled
from lowrank_bench.text.encode import Encoded


def finetune(
    model: nn.Module,
    tokenizer: Any,
    train: Encoded,
    recipe: Mapping[str, Any],
    seed: int,
    device: str = "cpu",
    on_step: Callable[[int, int, float], None] | None = None,
) -> list[float]:
    """Train `model` in place and return the mean loss of each epoch.

    Parameters
    ----------
    model
        A transformers sequence classifier; with one output it is trained as a regression.
    train, recipe
        Tokenised rows; fields of `config.schema.Recipe` (`bf16` keeps the weights in fp32).
    seed
        Decides batches and dropout; `on_step(step, steps, loss)` hears of every step.

    Raises
    ------
    LowRankError
        When the loss stops being finite.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model.to(device).train()
    steps_per_epoch = math.ceil(len(train) / recipe["batch_size"])
    steps = steps_per_epoch * recipe["epochs"]
    groups = _groups(model, recipe["weight_decay"])
    optimizer = torch.optim.AdamW(groups, lr=recipe["learning_rate"], fused=True)
    schedule = get_linear_schedule_with_warmup(optimizer, round(recipe["warmup"] * steps), steps)
    collate, lengths = Collator(tokenizer, device), train.lengths
    losses, step = [], 0
    for _ in range(recipe["epochs"]):
        total = 0.0
        batches = shuffled(lengths, recipe["batch_size"], rng)
        for rows in batches:
            loss = _loss(
                model, collate(train, rows), train.labels[rows], recipe["precision"], device
            )
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), recipe["max_grad_norm"])
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            value = loss.item()
            if not math.isfinite(value):
                raise LowRankError(
                    f"training diverged at step {step + 1} of {steps} (loss {value}); "
                    "lower recipe.learning_rate or set recipe.precision=fp32"
                )
            total, step = total + value, step + 1
            if on_step:
                on_step(step, steps, value)
        losses.append(total / len(batches))
    model.eval()
    return losses


def _loss(
    model: nn.Module,
    batch: dict[str, torch.Tensor],
    labels: np.ndarray,
    precision: str,
    device: str,
) -> torch.Tensor:
    cast = (
        torch.autocast(torch.device(device).type, dtype=torch.bfloat16)
        if precision == "bf16"
        else contextlib.nullcontext()
    )
    target = torch.as_tensor(labels, device=device)
    with cast:
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
