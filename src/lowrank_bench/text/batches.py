"""Batches that waste little padding: rows of like length together, sized by tokens."""

from typing import Any

import numpy as np
from torch import Tensor
from transformers import DataCollatorWithPadding

from lowrank_bench.text.encode import Encoded


def length_sorted(lengths: np.ndarray, max_tokens: int) -> list[np.ndarray]:
    """Cut rows, longest first, into batches of at most `max_tokens` padded tokens.

    The longest come first so that memory runs out at once or never and the time left is not
    underestimated.
    """
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        size = max(1, max_tokens // int(lengths[order[start]]))
        batches.append(order[start : start + size])
        start += size
    return batches


def shuffled(lengths: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Cut rows at random into batches of `batch_size` whose lengths are alike.

    Rows are shuffled, sorted by length inside pools of 32 batches, cut, and the batches
    shuffled: each epoch sees other batches, with little padding.
    """
    order = rng.permutation(len(lengths))
    pool = 32 * batch_size
    batches = []
    for start in range(0, len(order), pool):
        rows = order[start : start + pool]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches += [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


class Collator:
    """Pad the rows of a batch to its longest, on the side that the tokenizer pads."""

    def __init__(self, tokenizer: Any, device: str = "cpu") -> None:
        self._pad = DataCollatorWithPadding(tokenizer, return_tensors="pt")
        self._device = device

    def __call__(self, encoded: Encoded, rows: np.ndarray) -> dict[str, Tensor]:
        """Return the padded batch of `rows`, tensors rows×length on the device."""
        batch = self._pad([encoded.features[i] for i in rows])
        return {name: value.to(self._device) for name, value in batch.items()}
