"""The rows that a checkpoint was, or would have been, trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lowrank_bench.download.data import download_data, part_of, read_split
from lowrank_bench.inputs.modality import Encoded, modality_of
from lowrank_bench.inputs.training_loop import OnStep, Watch
from lowrank_bench.plan.cells import Checkpoint
from lowrank_bench.store.digest import code_digest, digest
from lowrank_bench.store.store import Store

HELD_OUT_TOKENS = 4096  # padded tokens of one batch
ENCODING = "lowrank_bench.inputs.text.encode"


def after_recipe(point: Checkpoint) -> Mapping[str, Any]:
    """Return the settings of training after compression: those of the checkpoint's own training."""
    return point.recipe.get("after", point.recipe)


def encoded_split(
    point: Checkpoint, store: Store, processor: Any, split: str, *limits: int | None
) -> Encoded:
    """Return rows of a split as the network takes them, encoded once for all jobs that read them.

    Parameters
    ----------
    split
        As `cells.split_and_range` reads it.
    limits
        Take the first so many of their shuffle, and of these again; None takes all.
    """
    modality = modality_of(point)
    name = modality.processor_name(processor)
    if name is None:
        return modality.encode(_rows(point, store, split, limits), processor, point.inputs)
    about = [point.data.key, split, limits, dict(point.inputs), name, code_digest(ENCODING)]
    key = digest(about)
    found = store.folder("encoded", key, deep=True)
    if not found:
        rows = _rows(point, store, split, limits)
        with store.new_folder("encoded", key, {"task": point.task, "split": split}) as fresh:
            modality.write_encoded(modality.encode(rows, processor, point.inputs), fresh)
        found = store.place("encoded", key)
    return modality.read_encoded(found)


def _rows(
    point: Checkpoint, store: Store, split: str, limits: Sequence[int | None]
) -> pd.DataFrame:
    rows = read_split(download_data(point.data, store), split)
    for limit in limits:
        rows = part_of(rows, slice(None, limit) if limit else None)
    return rows


def plain_training_set(
    point: Checkpoint, store: Store, processor: Any, limit: int | None = None
) -> Encoded:
    """Return the rows that a checkpoint was trained on, with labels as the task numbers them.

    Held-out rows are left out, and the others limited as the recipe says.
    """
    recipe = after_recipe(point)
    limits = (recipe["train_limit"], limit)
    return encoded_split(point, store, processor, recipe["train_split"], *limits)


def training_set(
    point: Checkpoint, store: Store, processor: Any, limit: int | None = None
) -> Encoded:
    """Return the rows that a checkpoint was trained on, with labels as its outputs name them.

    Parameters
    ----------
    limit
        Take the first so many of their shuffle.
    """
    order = store.manifest(store.place("checkpoint", point.key)).get("output_order")
    return with_outputs(plain_training_set(point, store, processor, limit), point, order)


def watch_over(
    point: Checkpoint,
    store: Store,
    processor: Any,
    key: str,
    on_step: OnStep | None = None,
    order: list[int] | None = None,
) -> Watch:
    """Return what a training heeds: held-out rows if it may stop early, a file to go on from.

    Parameters
    ----------
    key
        Of what the training makes; it decides every number of it.
    order
        Which output means each label of the task; None when they agree.
    """
    recipe = after_recipe(point)
    file = store.place("unfinished", key, ".pt")
    if not recipe.get("patience"):
        return Watch(on_step, file=file)
    rows = encoded_split(point, store, processor, recipe["held_out_split"])
    rows, modality = with_outputs(rows, point, order), modality_of(point)

    def held_out(model: nn.Module) -> float:
        """Return the loss on the rows held out."""
        device = str(next(model.parameters()).device)
        logits = modality.predict(model, processor, rows, HELD_OUT_TOKENS, device)
        return _loss(torch.from_numpy(logits), torch.as_tensor(rows.labels))

    return Watch(on_step, held_out, recipe["patience"], file)


def _loss(logits: Tensor, labels: Tensor) -> float:
    """Return the mean loss that training minimises."""
    if logits.shape[-1] == 1:
        return float(nn.functional.mse_loss(logits.squeeze(-1), labels.float()))
    return float(nn.functional.cross_entropy(logits, labels))


def with_outputs(encoded: Any, point: Checkpoint, output_order: list[int] | None) -> Any:
    """Return rows with the numbers of the outputs that mean their labels."""
    if output_order is None or not point.inputs["labels"]:
        return encoded
    return replace(encoded, labels=np.array(output_order)[encoded.labels])
