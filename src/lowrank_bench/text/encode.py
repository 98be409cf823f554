"""Tokenise the rows of one split, without padding."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Encoded:
    """One tokenised split.

    Attributes
    ----------
    features
        One mapping a row: `input_ids`, `attention_mask` and, where the network uses them,
        `token_type_ids`, each a list of ints.
    labels
        Array of n class ids (int64) or n scores (float32).
    """

    features: list[dict[str, list[int]]]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.features)

    @property
    def lengths(self) -> np.ndarray:
        """Token counts, n."""
        return np.array([len(row["input_ids"]) for row in self.features], dtype=np.int64)


def encode(
    rows: pd.DataFrame,
    tokenizer: Any,
    text: Mapping[str, Any],
) -> Encoded:
    """Tokenise the rows of a split.

    Parameters
    ----------
    text
        `columns` (one text, or a pair), `label` (its column), `labels` (names of the classes;
        none for a regression) and `max_length` in tokens, beyond which rows are cut.
    """
    texts = [rows[column].astype(str).tolist() for column in text["columns"]]
    batch = tokenizer(*texts, truncation=True, max_length=text["max_length"], padding=False)
    names = list(batch.keys())
    features = [
        dict(zip(names, values, strict=True)) for values in zip(*batch.values(), strict=True)
    ]
    kind = np.int64 if text["labels"] else np.float32
    return Encoded(features, rows[text["label"]].to_numpy(dtype=kind))
