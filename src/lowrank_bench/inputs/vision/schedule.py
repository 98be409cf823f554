"""The learning rate at every moment of a training, and of a retraining that rewinds it."""

import math
from collections.abc import Mapping
from typing import Any

from lowrank_bench.errors import LowRankError


def learning_rate(recipe: Mapping[str, Any], moment: float) -> float:
    """Return the learning rate at `moment`, counted in epochs from the start of training.

    It rises linearly over `warmup_epochs`, is multiplied by `gamma` at each of `milestones` or,
    where there are none, every `step` epochs, and is constant otherwise.
    """
    rate = recipe["learning_rate"]
    warmup = recipe.get("warmup_epochs") or 0
    if moment < warmup:
        rate *= moment / warmup
    epoch = math.floor(moment)
    milestones, step = recipe.get("milestones"), recipe.get("step")
    if milestones or not step:
        drops = sum(epoch >= milestone for milestone in milestones or ())
    else:
        drops = epoch // step
    return rate * (recipe.get("gamma") or 1.0) ** drops


def first_epoch(recipe: Mapping[str, Any]) -> int:
    """Return where in the schedule a training begins: at 0, or where `rewind_of` puts it.

    Retraining for r epochs after a training of e = `rewind_of` epochs takes the learning rates of
    epochs e − r to e (Renda et al. 2020, learning-rate rewinding).

    Raises
    ------
    LowRankError
        When more epochs are asked for than the training had.
    """
    total = recipe.get("rewind_of")
    if total is None:
        return 0
    if recipe["epochs"] > total:
        raise LowRankError(
            f"retraining for {recipe['epochs']} epochs cannot rewind a schedule of {total}; lower "
            "finetune_epochs or raise recipe.epochs"
        )
    return total - recipe["epochs"]
