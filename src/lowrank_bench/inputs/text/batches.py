"""Batches that waste little padding: rows of like length together, sized by tokens."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowrank_bench.inputs.text.encode import MASK, Encoded


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
        self._fill = {
            "input_ids": tokenizer.pad_token_id,
            "token_type_ids": tokenizer.pad_token_type_id,
        }
        self._masked = MASK in tokenizer.model_input_names
        self._left = tokenizer.padding_side == "left"
        self._device = device

    def __call__(self, encoded: Encoded, rows: np.ndarray) -> dict[str, Tensor]:
        """Return the padded batch of `rows`, int64 tensors rows×length on the device."""
        starts = encoded.starts[rows]
        lengths = encoded.starts[rows + 1] - starts
        place = np.arange(lengths.max())
        if self._left:
            place = place - (lengths.max() - lengths)[:, None]
        live = (place >= 0) & (place < lengths[:, None])
        source = (starts[:, None] + place)[live]
        batch = {}
        for name, values in encoded.tokens.items():
            padded = np.full(live.shape, self._fill[name], dtype=np.int64)
            padded[live] = values[source]
            batch[name] = padded
        if self._masked:
            batch[MASK] = live.astype(np.int64)
        return {name: self._sent(torch.from_numpy(padded)) for name, padded in batch.items()}

    def _sent(self, values: Tensor) -> Tensor:
        if torch.device(self._device).type != "cuda":
            return values.to(self._device)
        return values.pin_memory().to(self._device, non_blocking=True)


def batches(
    encoded: Encoded, processor: Any, rows: Sequence[int], device: str, batch_size: int
) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Yield padded inputs and labels, rows in the order given."""
    collate = Collator(processor, device)
    for start in range(0, len(rows), batch_size):
        some = np.asarray(rows[start : start + batch_size])
        yield collate(encoded, some), torch.as_tensor(encoded.labels[some], device=device)
