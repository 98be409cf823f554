"""Predictions of a sequence classifier on one tokenised split."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
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
) -> NDArray[np.float32]:
    """Return the logits of every row, n×labels float32, in the order of the rows.

    Parameters
    ----------
    max_tokens
        Tokens of one batch, with padding; rows of similar length share a batch.
    output_order
        For each label of the task, the number of its output; None when they agree.

    Raises
    ------
    ValueError
        When there are no rows.
    """
    collate, lengths = Collator(tokenizer, device), encoded.lengths
    logits: NDArray[np.float32] | None = None
    with torch.inference_mode():
        for rows in length_sorted(lengths, max_tokens):
            outputs = model(**collate(encoded, rows)).logits.float().cpu().numpy()
            if logits is None:
                logits = np.empty((len(encoded), outputs.shape[1]), dtype=np.float32)
            logits[rows] = outputs
    if logits is None:
        raise ValueError("the split has no rows")
    return logits if output_order is None else logits[:, list(output_order)]
