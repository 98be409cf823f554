"""The rows that a checkpoint was, or would have been, trained on."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from lowrank_bench.cells import Checkpoint
from lowrank_bench.download.data import download_data, part_of, read_split
from lowrank_bench.modality import Encoded, modality_of
from lowrank_bench.store import Store


def after_recipe(point: Checkpoint) -> Mapping[str, Any]:
    """Return the settings of training after compression: those of the checkpoint's own training."""
    return point.recipe.get("after", point.recipe)


def training_rows(point: Checkpoint, store: Store) -> pd.DataFrame:
    """Return the rows, held-out ones left out and limited as the recipe says, not encoded."""
    recipe = after_recipe(point)
    rows = read_split(download_data(point.data, store), recipe["train_split"])
    limit = recipe["train_limit"]
    return part_of(rows, slice(None, limit) if limit else None)


def training_set(
    point: Checkpoint, store: Store, processor: Any, limit: int | None = None
) -> Encoded:
    """Return the rows that a checkpoint was trained on, encoded, with labels as outputs name them.

    Parameters
    ----------
    limit
        Take the first so many of their shuffle.
    """
    order = store.manifest(store.place("checkpoint", point.key)).get("output_order")
    rows = part_of(training_rows(point, store), slice(None, limit) if limit else None)
    return with_outputs(modality_of(point).encode(rows, processor, point.inputs), point, order)


def with_outputs(encoded: Any, point: Checkpoint, output_order: list[int] | None) -> Any:
    """Return rows with the numbers of the outputs that mean their labels."""
    if output_order is None or not point.inputs["labels"]:
        return encoded
    return replace(encoded, labels=np.array(output_order)[encoded.labels])
