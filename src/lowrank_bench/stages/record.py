"""A finished cell on disk: raw predictions and what was measured, one sealed safetensors file."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from lowrank_bench.plan.cells import Cell
from lowrank_bench.store.checksum import BLANK, NAME
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
    """Write the record of a finished cell with its checksum, whole or not at all."""
    # safetensors writes an array's memory as it lies, whatever its strides.
    arrays = {split: np.ascontiguousarray(logits) for split, logits in record.predictions.items()}
    facts = json.dumps(record.facts, sort_keys=True, allow_nan=False)
    store.write_file(KIND, cell.key, SUFFIX, save(arrays, metadata={"facts": facts, NAME: BLANK}))


def read_record(cell: Cell, store: Store) -> Record | None:
    """Return the record of a cell, or None.

    A file with any bit changed is reported, removed and counts as absent.

    Raises
    ------
    OSError
        When it cannot be read now; it may be whole.
    """
    content = store.read_file(KIND, cell.key, SUFFIX)
    if content is None:
        return None
    try:
        return Record(_facts(content), load(content))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        store.discard(store.place(KIND, cell.key, SUFFIX), f"of another kind ({error})")
        return None


def _facts(content: bytes) -> dict[str, Any]:
    """Return the facts in the header of a safetensors file, whose length stands before it."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    facts: dict[str, Any] = json.loads(header["__metadata__"]["facts"])
    return facts


def missing_cells(cells: list[Cell], store: Store) -> list[Cell]:
    """Return the cells without a readable record."""
    return [cell for cell in cells if read_record(cell, store) is None]
