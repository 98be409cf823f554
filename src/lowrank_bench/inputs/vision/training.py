"""Train a network on images: gradient descent with a stepwise schedule and augmentation."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_bench.device import autocast, dtype_of, loss_precision, trained_in
from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.state import Stateful, TorchRandom
from lowrank_bench.inputs.training_loop import Training, Watch
from lowrank_bench.inputs.vision.augment import training_images
from lowrank_bench.inputs.vision.images import Encoded, normalise
from lowrank_bench.inputs.vision.schedule import first_epoch, learning_rate
from lowrank_bench.inputs.vision.settings import ImageSettings
from lowrank_bench.network.forward import logits_of


def train(
    model: nn.Module,
    processor: ImageSettings,
    encoded: Encoded,
    recipe: Mapping[str, Any],
    seed: int,
    device: str = "cpu",
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Train `model` in place, and return what `Training.run` returns.

    Parameters
    ----------
    recipe
        Fields of `config.entries.Recipe`, and `rewind_of` as in `schedule.first_epoch`. Weight
        decay applies to all parameters, as in the papers. `warmup` and `max_grad_norm` have no
        effect: they are for texts.
    seed
        Decides batches, augmentation and dropout.

    Raises
    ------
    LowRankError
        When the recipe is invalid or the loss stops being finite.
    """
    start, per_epoch = first_epoch(recipe), _steps(len(encoded), recipe["batch_size"])
    optimizer = make_optimizer(model, recipe)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    _set_format(model, device, torch.channels_last)
    model.train()

    def batches() -> list[Tensor]:
        """Return the row numbers of an epoch's batches."""
        order = torch.randperm(len(encoded), generator=generator)
        return list(torch.split(order, recipe["batch_size"])[:per_epoch])

    def step(batch: Tensor) -> float:
        """Train on one batch and return its loss."""
        rows = batch.tolist()
        images = training_images(encoded, rows, _augment(recipe), generator, device)
        inputs = normalise(images, processor).to(dtype_of(model))
        target = torch.as_tensor(encoded.labels[rows], device=device)
        # The rate at the end of the step, just before a milestone that falls on it.
        moment = start + (training.progress.steps + 1) / per_epoch - 1e-9
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, moment)
        return _step(model, inputs, target, optimizer, recipe["precision"])

    parts: dict[str, Stateful] = {
        "model": model,
        "optimizer": optimizer,
        "random": TorchRandom(generator),
    }
    training = Training(parts, batches, step, watch)
    with trained_in(model, recipe["precision"], device):
        summary = training.run(recipe["epochs"], per_epoch)
    _set_format(model, device, torch.contiguous_format)
    model.eval()
    return summary


def make_optimizer(model: nn.Module, recipe: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Return the optimizer of a recipe, for all parameters that are trained.

    Raises
    ------
    LowRankError
        For an optimizer that image networks are not trained with.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    common = {"lr": recipe["learning_rate"], "weight_decay": recipe["weight_decay"]}
    momentum = 0.9 if recipe.get("momentum") is None else recipe["momentum"]
    name = recipe.get("optimizer") or "sgd"
    if name == "sgd":
        nesterov = bool(recipe.get("nesterov"))
        return torch.optim.SGD(trained, momentum=momentum, nesterov=nesterov, **common)
    if name == "rmsprop":
        return torch.optim.RMSprop(trained, alpha=0.9, momentum=momentum, **common)
    if name == "adamw":
        return torch.optim.AdamW(trained, **common)
    raise LowRankError(f"recipe.optimizer = {name!r} is not one of sgd, rmsprop, adamw")


def _augment(recipe: Mapping[str, Any]) -> str:
    return recipe.get("augment") or "none"


def _set_format(model: nn.Module, device: str, memory_format: torch.memory_format) -> None:
    """Move a network to a device and change the memory format of its convolutions."""
    model.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]  # stub lacks it


def _steps(rows: int, batch_size: int) -> int:
    """Return the steps of an epoch; a last batch of one image is left out.

    Batch norm cannot be trained on a single vector.
    """
    return max(1, math.ceil(rows / batch_size) - (rows % batch_size == 1))


def _step(
    model: nn.Module,
    inputs: Tensor,
    target: Tensor,
    optimizer: torch.optim.Optimizer,
    precision: str,
) -> float:
    with autocast(inputs.device, precision):
        logits = logits_of(model(pixel_values=inputs.contiguous(memory_format=torch.channels_last)))
    loss = nn.functional.cross_entropy(loss_precision(logits), target)
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    optimizer.step()
    return loss.item()
