"""The rows that a checkpoint was trained on, tokenised: for counts, gradients and more training."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from lowrank_bench.cells import Checkpoint
from lowrank_bench.checkpoint.pretrained import training_rows
from lowrank_bench.text.encode import Encoded, encode


def after_recipe(point: Checkpoint) -> Mapping[str, Any]:
    """Return the settings of training after compression: those of the checkpoint's own training."""
    return point.recipe.get("after", point.recipe)


def training_text(
    rows: pd.DataFrame, point: Checkpoint, tokenizer: Any, output_order: Sequence[int] | None
) -> Encoded:
    """Return the rows that the checkpoint was, or would have been, trained on.

    Parameters
    ----------
    rows
        The whole training split.
    output_order
        For each label of the task, which output means it; None when they agree. The labels
        returned are in the order of the outputs.
    """
    rows = training_rows(rows, after_recipe(point)["train_limit"])
    encoded = encode(rows, tokenizer, point.text)
    if output_order is None or not point.text["labels"]:
        return encoded
    return replace(encoded, labels=np.array(output_order)[encoded.labels])
