"""Make a checkpoint from a network and the rows of one task."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from lowrank_bench.inputs.modality import Encoded, Modality
    from lowrank_bench.inputs.training_loop import Watch


def train_checkpoint(
    modality: "Modality",
    model: nn.Module,
    processor: Any,
    rows: "Encoded",
    recipe: Mapping[str, Any],
    seed: int,
    device: str = "cpu",
    watch: "Watch | None" = None,
) -> dict[str, Any]:
    """Train a network in place on one task, and return the facts for its manifest.

    Parameters
    ----------
    modality
        Trains it: `inputs.modality.modality_of`.
    processor
        Its tokenizer, or how its images are prepared.
    rows
        Training rows, with labels as the task numbers them.
    recipe
        Fields of `config.entries.Recipe`.
    seed
        Decides batches, augmentation and dropout.
    watch
        Progress, held-out rows, and the file to resume from.

    Returns
    -------
    dict
        What `training_loop.Training.run` returns, and `train_rows`.

    Raises
    ------
    LowRankError
        When training diverges.
    """
    facts = modality.train(model, processor, rows, recipe, seed, device, watch)
    return facts | {"train_rows": len(rows)}
