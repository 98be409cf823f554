"""Train a network further after it was compressed."""

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from lowrank_bench.inputs.modality import Encoded, Modality
    from lowrank_bench.inputs.training_loop import Watch


def retrain(
    modality: "Modality",
    model: nn.Module,
    processor: Any,
    rows: "Encoded",
    recipe: Mapping[str, Any],
    epochs: int,
    seed: int,
    device: str = "cpu",
    watch: "Watch | None" = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Return a copy of a network trained for more epochs, and what `Training.run` returns.

    All parameters are trained, the factors too, with the checkpoint's own recipe and seed. A
    recipe with milestones is rewound: the schedule of its last `epochs` epochs is run again
    (Renda et al., "Comparing rewinding and fine-tuning in neural network pruning", ICLR 2020).

    Raises
    ------
    LowRankError
        When the loss stops being finite.
    """
    trained, recipe = copy.deepcopy(model), dict(recipe)
    recipe |= {"rewind_of": recipe["epochs"]} if recipe.get("rewind", True) else {}
    recipe["epochs"] = epochs
    return trained, modality.train(trained, processor, rows, recipe, seed, device, watch)
