"""Batches with little padding: rows of similar length together, sized by their tokens."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowrank_bench.inputs.text.encode import MASK, Encoded

POOL = 32  # batches


def length_sorted(lengths: NDArray[np.int64], max_tokens: int) -> list[NDArray[np.int64]]:
    """Return batches of rows, the longest first, with at most `max_tokens` tokens after padding.

    With the longest rows first, a lack of memory shows at once, and the remaining time is not
    underestimated.
    """
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        size = max(1, max_tokens // int(lengths[order[start]]))
        batches.append(order[start : start + size])
        start += size
    return batches


def shuffled(
    lengths: NDArray[np.int64], batch_size: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Return random batches of `batch_size` rows of similar length.

    Rows are shuffled, sorted by length within pools of 32 batches and cut into batches, which are
    then shuffled: every epoch has different batches, with little padding.
    """
    order = rng.permutation(len(lengths))
    pool = POOL * batch_size
    batches = []
    for start in range(0, len(order), pool):
        rows = order[start : start + pool]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches += [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


class Collator:
    """Pads the rows of a batch to the longest of them, on the tokenizer's padding side."""

    def __init__(self, tokenizer: Any, device: str = "cpu") -> None:
        self._fill = {
            "input_ids": tokenizer.pad_token_id,
            "token_type_ids": tokenizer.pad_token_type_id,
        }
        self._masked = MASK in tokenizer.model_input_names
        self._left = tokenizer.padding_side == "left"
        self._device = device

    def __call__(self, encoded: Encoded, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        """Return the padded batch of `rows`, int64 tensors rows×length on the device."""
        starts = encoded.starts[rows]
        lengths = encoded.starts[rows + 1] - starts
        # The position in its row of each entry of the batch; padding is outside 0 … length − 1.
        position = np.arange(lengths.max())
        if self._left:
            position = position - (lengths.max() - lengths)[:, None]
        is_token = (position >= 0) & (position < lengths[:, None])
        # Where in the split's flat arrays the tokens of the batch are, row after row.
        source = (starts[:, None] + position)[is_token]
        batch: dict[str, NDArray[np.int64]] = {}
        for name, values in encoded.tokens.items():
            padded = np.full(is_token.shape, self._fill[name], dtype=np.int64)
            padded[is_token] = values[source]
            batch[name] = padded
        if self._masked:
            batch[MASK] = is_token.astype(np.int64)
        return {name: self._on_device(torch.from_numpy(padded)) for name, padded in batch.items()}

    def _on_device(self, values: Tensor) -> Tensor:
        if torch.device(self._device).type != "cuda":
            return values.to(self._device)
        return values.pin_memory().to(self._device, non_blocking=True)


def batches(
    encoded: Encoded, processor: Any, rows: Sequence[int], device: str, batch_size: int
) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Yield padded inputs and labels, in the order of `rows`."""
    collate = Collator(processor, device)
    for start in range(0, len(rows), batch_size):
        batch = np.asarray(rows[start : start + batch_size])
        yield collate(encoded, batch), torch.as_tensor(encoded.labels[batch], device=device)
