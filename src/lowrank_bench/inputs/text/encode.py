"""Tokenise the rows of one split, without padding, once for every job that reads them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

MASK = "attention_mask"
STARTS, LABELS = "starts", "labels"


@dataclass(frozen=True)
class Encoded:
    """One tokenised split, its rows end to end; the arrays may be mapped from files.

    Attributes
    ----------
    tokens
        Arrays of length Σ lengths, int32: `input_ids` and, where the network uses them,
        `token_type_ids`.
    starts
        Array of n + 1, int64: row i is tokens starts[i] to starts[i + 1].
    labels
        Array of n class ids (int64) or n scores (float32).
    """

    tokens: Mapping[str, NDArray[np.int32]]
    starts: NDArray[np.int64]
    labels: NDArray[Any]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Token counts, n."""
        return np.diff(self.starts)

    def row(self, number: int) -> dict[str, NDArray[np.int32]]:
        """Return the tokens of one row."""
        part = slice(self.starts[number], self.starts[number + 1])
        return {name: values[part] for name, values in self.tokens.items()}

    def with_labels(self, labels: NDArray[Any]) -> "Encoded":
        """Return the same rows with other labels."""
        return replace(self, labels=labels)


def encode(rows: pd.DataFrame, tokenizer: Any, text: Mapping[str, Any]) -> Encoded:
    """Tokenise the rows of a split.

    Parameters
    ----------
    text
        `columns` (one text, or a pair), `label` (its column), `labels` (names of the classes;
        none for a regression) and `max_length` in tokens; longer rows are cut.
    """
    texts = [rows[column].astype(str).tolist() for column in text["columns"]]
    batch = tokenizer(*texts, truncation=True, max_length=text["max_length"], padding=False)
    starts = np.cumsum([0, *map(len, batch["input_ids"])], dtype=np.int64)
    tokens = {
        name: np.fromiter(chain.from_iterable(values), np.int32, count=int(starts[-1]))
        for name, values in batch.items()
        if name != MASK  # all ones before padding
    }
    dtype = np.int64 if text["labels"] else np.float32
    return Encoded(tokens, starts, rows[text["label"]].to_numpy(dtype=dtype))


def tokenizer_name(tokenizer: Any) -> list[Any] | None:
    """Return what decides the tokens of a text, or None for a tokenizer without a description."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    state = json.loads(backend.to_str())
    state.pop("padding", None)  # every call sets these two
    state.pop("truncation", None)
    facts = (type(tokenizer).__name__, tokenizer.truncation_side, tokenizer.model_input_names)
    return [*facts, state]


def write_encoded(encoded: Encoded, folder: Path) -> None:
    """Write the arrays to a folder, one file each."""
    arrays: dict[str, NDArray[Any]] = {
        **encoded.tokens,
        STARTS: encoded.starts,
        LABELS: encoded.labels,
    }
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)


def read_encoded(folder: Path) -> Encoded:
    """Return the arrays of a folder, memory-mapped, so that jobs on one machine share them."""
    arrays = {file.stem: np.load(file, mmap_mode="r") for file in folder.glob("*.npy")}
    starts, labels = np.asarray(arrays.pop(STARTS)), np.asarray(arrays.pop(LABELS))
    return Encoded(arrays, starts, labels)
