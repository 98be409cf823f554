"""A finished cell on disk: raw predictions and what was measured, one safetensors file."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lowrank_bench.plan.cells import Cell
from lowrank_bench.store.store import Store


@dataclass(frozen=True)
class Record:
    """A finished cell.

    Attributes
    ----------
    facts
        What was measured: compression, errors, seconds, versions, …
    predictions
        Logits of each evaluated split, n×labels float32.
    """

    facts: dict[str, Any]
    predictions: dict[str, np.ndarray]


KIND, SUFFIX = "cell", ".safetensors"  # of records in the store


def write_record(cell: Cell, record: Record, store: Store) -> None:
    """Write the record of a finished cell, whole or not at all."""
    # safetensors writes an array's memory as it lies, whatever its strides.
    arrays = {split: np.ascontiguousarray(logits) for split, logits in record.predictions.items()}
    facts = json.dumps(record.facts, sort_keys=True, allow_nan=False)
    store.write_file(KIND, cell.key, SUFFIX, save(arrays, metadata={"facts": facts}))


def read_record(cell: Cell, store: Store) -> Record | None:
    """Return the record of a cell, or None.

    A damaged file is reported, removed and counts as absent.
    """
    place = store.place(KIND, cell.key, SUFFIX)
    if not place.is_file():
        return None
    try:
        with safe_open(place, framework="np") as file:
            facts = json.loads(file.metadata()["facts"])
            splits = file.keys()
            predictions = {split: file.get_tensor(split) for split in splits}
    except OSError:  # of the filesystem, not of the file: another run may still want it
        return None
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        store.discard(place, f"damaged or cut short ({error})")
        return None
    return Record(facts, predictions)


def missing_cells(cells: list[Cell], store: Store) -> list[Cell]:
    """Return the cells without a readable record."""
    return [cell for cell in cells if read_record(cell, store) is None]
