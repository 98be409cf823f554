"""Predictions of a sequence classifier on one tokenised split."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from lowrank_bench.inputs.text.batches import Collator, length_sorted
from lowrank_bench.inputs.text.encode import Encoded


def predict(
    model: nn.Module,
    tokenizer: Any,
    encoded: Encoded,
    max_tokens: int,
    device: str = "cpu",
    output_order: Sequence[int] | None = None,
) -> np.ndarray:
    """Return the logits of every row, n×labels float32, in the order of the rows.

    Parameters
    ----------
    max_tokens
        Padded tokens of one batch; rows are batched with others of like length.
    output_order
        For each label of the task, which output means it; None when they agree.
    """
    collate, lengths = Collator(tokenizer, device), encoded.lengths
    logits: np.ndarray | None = None
    with torch.inference_mode():
        for rows in length_sorted(lengths, max_tokens):
            out = model(**collate(encoded, rows)).logits.float().cpu().numpy()
            if logits is None:
                logits = np.empty((len(encoded), out.shape[1]), dtype=np.float32)
            logits[rows] = out
    if logits is None:
        raise ValueError("the split has no rows")
    return logits if output_order is None else logits[:, list(output_order)]
