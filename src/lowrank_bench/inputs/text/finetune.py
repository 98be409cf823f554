"""Fine-tune a sequence classifier on one task: AdamW, linear warm-up and decay."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import get_linear_schedule_with_warmup

from lowrank_bench.device import autocast, loss_precision, trained_in
from lowrank_bench.inputs.state import NumpyRandom, Stateful, TorchRandom
from lowrank_bench.inputs.text.batches import Collator, shuffled
from lowrank_bench.inputs.text.encode import Encoded
from lowrank_bench.inputs.training_loop import Training, Watch


def finetune(
    model: nn.Module,
    tokenizer: Any,
    encoded: Encoded,
    recipe: Mapping[str, Any],
    seed: int,
    device: str = "cpu",
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Train `model` in place, and return what `Training.run` returns.

    Parameters
    ----------
    model
        A transformers sequence classifier; with one output it is trained as a regression.
    encoded
        The tokenised training rows.
    recipe
        Fields of `config.entries.Recipe`. With `bf16` the weights stay in float32; with
        `freeze: embedding` the embedding table, or its factors, are not trained.
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
    batch_size = recipe["batch_size"]
    per_epoch = math.ceil(len(encoded) / batch_size)
    steps = per_epoch * recipe["epochs"]
    collate, lengths = Collator(tokenizer, device), encoded.lengths
    with _frozen(model, recipe.get("freeze")):
        optimizer, schedule = _scheduled(model, recipe, steps)

        def batches() -> list[Tensor]:
            """Return the row numbers of an epoch's batches."""
            return [torch.from_numpy(rows) for rows in shuffled(lengths, batch_size, rng)]

        def step(batch: Tensor) -> float:
            """Train on one batch and return its loss."""
            rows = batch.numpy()
            inputs = collate(encoded, rows)
            loss = _loss(model, inputs, encoded.labels[rows], recipe["precision"], device)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), recipe["max_grad_norm"])
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            return loss.item()

        parts: dict[str, Stateful] = {"model": model, "optimizer": optimizer, "schedule": schedule}
        parts |= {"batches": NumpyRandom(rng), "dropout": TorchRandom()}
        with trained_in(model, recipe["precision"], device):
            summary = Training(parts, batches, step, watch).run(recipe["epochs"], per_epoch)
    model.eval()
    return summary


def _scheduled(model: nn.Module, recipe: Mapping[str, Any], steps: int) -> tuple[Any, Any]:
    """Return AdamW, and its schedule of linear warm-up and decay over `steps` steps."""
    groups = _groups(model, recipe["weight_decay"])
    optimizer = torch.optim.AdamW(groups, lr=recipe["learning_rate"], fused=True)
    warmup = round(recipe["warmup"] * steps)
    return optimizer, get_linear_schedule_with_warmup(optimizer, warmup, steps)


@contextmanager
def _frozen(model: nn.Module, part: str | None) -> Iterator[None]:
    """Do not train the embedding inside the block if `part` is `embedding`."""
    frozen = _embedding_parameters(model) if part == "embedding" else []
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


def _embedding_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of the input embedding that are trained."""
    get_embedding: Any = model.get_input_embeddings  # a method of every transformers model
    return [p for p in get_embedding().parameters() if p.requires_grad]


def _loss(
    model: nn.Module,
    batch: dict[str, Tensor],
    labels: NDArray[Any],
    precision: str,
    device: str,
) -> Tensor:
    """Return the mean cross-entropy of a batch, or its mean squared error for a regression."""
    target = torch.as_tensor(labels, device=device)
    with autocast(device, precision):
        logits = model(**batch).logits
    if logits.shape[-1] == 1:
        scores = loss_precision(logits).squeeze(-1)
        return nn.functional.mse_loss(scores, target.to(scores.dtype))
    return nn.functional.cross_entropy(loss_precision(logits), target)


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the optimizer's groups: only matrices decay, not biases and normalisation scales."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
