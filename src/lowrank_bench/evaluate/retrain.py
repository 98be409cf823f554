"""Train a compressed network on."""

import copy
from typing import Any

from torch import nn

from lowrank_bench.checkpoint.training import after_recipe
from lowrank_bench.inputs.modality import Encoded, modality_of
from lowrank_bench.inputs.training_loop import Watch
from lowrank_bench.plan.cells import Checkpoint


def retrain(
    model: nn.Module,
    processor: Any,
    train: Encoded,
    point: Checkpoint,
    epochs: int,
    device: str,
    watch: Watch | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Return a copy of a network trained for more epochs, and what `fit.Training.run` tells.

    All parameters are trained, the factors too, with the recipe and the seed of the checkpoint.
    A recipe with milestones is rewound: the schedule of its last `epochs` epochs is run again
    (Renda et al., "Comparing rewinding and fine-tuning in neural network pruning", ICLR 2020).

    Raises
    ------
    LowRankError
        When the loss stops being finite.
    """
    copied, recipe = copy.deepcopy(model), dict(after_recipe(point))
    recipe |= {"rewind_of": recipe["epochs"]} if recipe.get("rewind", True) else {}
    recipe["epochs"] = epochs
    settings = (recipe, point.seed, device, watch)
    return copied, modality_of(point).train(copied, processor, train, *settings)
