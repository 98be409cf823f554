"""Train a compressed network on."""

import copy
from typing import Any

from torch import nn

from lowrank_bench.cells import Checkpoint
from lowrank_bench.checkpoint.finetune import finetune
from lowrank_bench.text.encode import Encoded
from lowrank_bench.text.training import after_recipe


def retrain(
    model: nn.Module,
    tokenizer: Any,
    train: Encoded,
    point: Checkpoint,
    epochs: int,
    device: str,
) -> tuple[nn.Module, list[float]]:
    """Return a copy of a network trained for more epochs, and the mean loss of each.

    All parameters are trained, the factors too, with the recipe and the seed of the checkpoint.

    Raises
    ------
    LowRankError
        When the loss stops being finite.
    """
    copied = copy.deepcopy(model)
    recipe = {**after_recipe(point), "epochs": epochs}
    return copied, finetune(copied, tokenizer, train, recipe, point.seed, device)
