"""The learning rate during training, and during retraining that rewinds the schedule."""

import math
from collections.abc import Mapping
from typing import Any

from lowrank_bench.errors import LowRankError


def learning_rate(recipe: Mapping[str, Any], moment: float) -> float:
    """Return the learning rate at `moment`, counted in epochs from the start of training.

    It rises linearly over `warmup_epochs` and is multiplied by `gamma` at each of `milestones` or,
    without milestones, every `step` epochs. Otherwise it is constant.
    """
    rate: float = recipe["learning_rate"]
    gamma: float = recipe.get("gamma") or 1.0
    warmup = recipe.get("warmup_epochs") or 0
    if moment < warmup:
        rate *= moment / warmup
    epoch = math.floor(moment)
    milestones, step = recipe.get("milestones"), recipe.get("step")
    drops: int
    if milestones or not step:
        drops = sum(epoch >= milestone for milestone in milestones or ())
    else:
        drops = epoch // step
    return rate * gamma**drops


def first_epoch(recipe: Mapping[str, Any]) -> int:
    """Return the epoch of the schedule at which training starts: 0 unless `rewind_of` is set.

    Retraining for r epochs after training for e = `rewind_of` epochs uses the learning rates of
    epochs e − r to e (learning-rate rewinding, Renda et al. 2020).

    Raises
    ------
    LowRankError
        When retraining has more epochs than training had.
    """
    total: int | None = recipe.get("rewind_of")
    if total is None:
        return 0
    epochs: int = recipe["epochs"]
    if epochs > total:
        raise LowRankError(
            f"retraining for {epochs} epochs cannot rewind a schedule of {total}; lower "
            "finetune_epochs or raise recipe.epochs"
        )
    return total - epochs
