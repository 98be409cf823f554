"""Rows of a split: read from parquet, limited to a part, with labels numbered like the outputs.

Scoring reads labels with it, so it imports no torch.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pandas as pd

from lowrank_bench.inputs.splits import split_and_range

if TYPE_CHECKING:
    from lowrank_bench.inputs.modality import Encoded

Rows = TypeVar("Rows", bound="Encoded")
SHUFFLE_SEED = 0  # parts of a split are the same for every network and seed


def read_split(folder: Path, name: str, limits: Sequence[int | None] = ()) -> pd.DataFrame:
    """Return the rows of a split, or of a part of its fixed shuffle.

    Parameters
    ----------
    folder
        Contains `<split>.parquet`.
    name
        The split and its part, as `splits.split_and_range` reads it.
    limits
        For each limit in turn, keep that many rows from the start of the shuffle; None keeps all.
    """
    split, part = split_and_range(name)
    rows = part_of(pd.read_parquet(folder / f"{split}.parquet"), part)
    for limit in limits:
        rows = part_of(rows, slice(None, limit) if limit else None)
    return rows


def part_of(rows: pd.DataFrame, part: slice | None) -> pd.DataFrame:
    """Return a part of the fixed shuffle of rows; for None all rows, in their order."""
    if part is None or (part.start is None and part.stop is not None and part.stop >= len(rows)):
        return rows
    return rows.sample(frac=1, random_state=SHUFFLE_SEED).iloc[part]


def with_outputs(encoded: Rows, labels: Sequence[str], output_order: Sequence[int] | None) -> Rows:
    """Return rows whose labels are the numbers of the network's outputs.

    Parameters
    ----------
    encoded
        Rows with labels as the task numbers them.
    labels
        Names of the task's labels; empty for a regression, whose scores stay as they are.
    output_order
        For each label of the task, the number of its output; None when they agree.
    """
    if output_order is None or not labels:
        return encoded
    return encoded.with_labels(np.array(output_order)[encoded.labels])
