"""Tokenise the sentences of a split, each by itself, once for every job that reads them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowrank_bench.inputs.text import encode as texts
from lowrank_bench.inputs.text.batches import Collator

SETTINGS = "sentences.json"


@dataclass(frozen=True)
class Encoded:
    """The sentences of one split, column after column.

    Attributes
    ----------
    sentences
        n·c tokenised rows: the n sentences of the first column, then those of the second. Each
        carries the score of its example.
    columns
        Sentences c of an example: 1 or 2.
    pooling
        How a sentence's hidden states become its vector: `mean` or `cls`.
    dense
        The dense network's vectors of all sentences, (n·c)×d float32; None where they are not
        known.
    """

    sentences: texts.Encoded
    columns: int
    pooling: str
    dense: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.sentences) // self.columns

    @property
    def labels(self) -> NDArray[Any]:
        """Human scores, n float32; zeros for a task without any."""
        return self.sentences.labels[: len(self)]

    @property
    def tokens(self) -> Mapping[str, NDArray[np.int32]]:
        """All tokens of the split, as in `text.encode.Encoded`."""
        return self.sentences.tokens

    def with_labels(self, labels: NDArray[Any]) -> "Encoded":
        """Return the same rows with other scores."""
        return replace(self, sentences=self.sentences.with_labels(np.tile(labels, self.columns)))


def encode(rows: pd.DataFrame, tokenizer: Any, inputs: Mapping[str, Any]) -> Encoded:
    """Tokenise the sentences of a split.

    Parameters
    ----------
    inputs
        `columns` (one sentence, or a pair), `label` (the column of the scores; None without any),
        `pooling`, `max_length` in tokens (longer sentences are cut), and `prefix`, a text before
        each sentence, if any.
    """
    columns, prefix = inputs["columns"], inputs.get("prefix", "")
    scores = rows[inputs["label"]] if inputs["label"] else np.zeros(len(rows))
    sentences = [(prefix + rows[name].astype(str)).to_numpy() for name in columns]
    stacked = pd.DataFrame(
        {
            "sentence": np.concatenate(sentences),
            "score": np.tile(np.asarray(scores), len(columns)),
        }
    )
    single = {"columns": ["sentence"], "label": "score", "labels": []}
    single["max_length"] = inputs["max_length"]
    return Encoded(texts.encode(stacked, tokenizer, single), len(columns), inputs["pooling"])


def write_encoded(encoded: Encoded, folder: Path) -> None:
    """Write the sentences to a folder; the dense network's vectors are not among them."""
    texts.write_encoded(encoded.sentences, folder)
    settings = {"columns": encoded.columns, "pooling": encoded.pooling}
    (folder / SETTINGS).write_text(json.dumps(settings))


def read_encoded(folder: Path) -> Encoded:
    """Return the sentences of a folder, memory-mapped."""
    settings = json.loads((folder / SETTINGS).read_text())
    return Encoded(texts.read_encoded(folder), settings["columns"], settings["pooling"])


def batches(
    encoded: Encoded, processor: Any, rows: Sequence[int], device: str, batch_size: int
) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Yield padded sentences and scores, in the order of `rows`, one column at a time."""
    collate, sentences = Collator(processor, device), encoded.sentences
    for start in range(0, len(rows), batch_size):
        batch = np.asarray(rows[start : start + batch_size])
        for column in range(encoded.columns):
            numbers = batch + column * len(encoded)
            scores = torch.as_tensor(sentences.labels[numbers], device=device)
            yield collate(sentences, numbers), scores
