"""Make the checkpoint of one network, task and seed, or find it in the store."""

from pathlib import Path
from typing import Any

from torch import nn

from lowrank_bench.checkpoint.training import plain_training_set, watch_over
from lowrank_bench.device import best_device
from lowrank_bench.inputs.modality import modality_of
from lowrank_bench.inputs.training_loop import OnStep
from lowrank_bench.plan.cells import Checkpoint
from lowrank_bench.store.provenance import provenance
from lowrank_bench.store.store import Store


def ensure_checkpoint(point: Checkpoint, store: Store, on_step: OnStep | None = None) -> Path:
    """Return the store's folder of a checkpoint, training or converting it when it is absent.

    Raises
    ------
    LowRankError
        When the network cannot be had, its label map disagrees with the task, training diverges,
        or its embedding is not finite.
    """
    found = store.folder("checkpoint", point.key, deep=True)
    if found:
        return found
    modality = modality_of(point)
    about: dict[str, Any] = {"checkpoint": point.title(), "recipe": dict(point.recipe)}
    with store.new_folder("checkpoint", point.key, about) as fresh:
        if "published_labels" in point.recipe:
            model, processor = modality.published_network(point, store, about)
        else:
            model, processor = _trained(point, store, about, on_step)
        about |= modality.check_network(model, point.title()) | provenance()
        modality.save_network(model.to("cpu"), processor, fresh)
    return store.place("checkpoint", point.key)


def _trained(
    point: Checkpoint, store: Store, about: dict[str, Any], on_step: OnStep | None
) -> tuple[nn.Module, Any]:
    modality = modality_of(point)
    model, processor = modality.initial_network(point, store)
    train = plain_training_set(point, store, processor)
    watch = watch_over(point, store, processor, point.key, on_step)
    settings = (point.recipe, point.seed, best_device(), watch)
    about |= modality.train(model, processor, train, *settings)
    about["train_rows"] = len(train)
    return model, processor
