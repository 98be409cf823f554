"""Predictions of an image classifier on one split."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lowrank_bench.device import dtype_of
from lowrank_bench.inputs.vision.images import Encoded, batches
from lowrank_bench.inputs.vision.settings import ImageSettings
from lowrank_bench.network.forward import logits_of

PIXELS = 16  # that count as one token: an image of 32×32 counts as 64


def predict(
    model: nn.Module,
    processor: ImageSettings,
    encoded: Encoded,
    max_tokens: int,
    device: str = "cpu",
    output_order: Sequence[int] | None = None,
) -> NDArray[np.float32]:
    """Return the logits of every row, n×labels float32, in the order of the rows.

    Parameters
    ----------
    max_tokens
        Limits the size of a batch: sixteen pixels count as one token.
    output_order
        For each label of the task, the number of its output; None when they agree.
    """
    size = max(1, PIXELS * max_tokens // processor.size**2)
    dtype = dtype_of(model)
    with torch.inference_mode():
        parts = [
            logits_of(model(pixel_values=inputs["pixel_values"].to(dtype))).float().cpu()
            for inputs, _ in batches(encoded, processor, range(len(encoded)), device, size)
        ]
    logits: NDArray[np.float32] = torch.cat(parts).numpy()
    return logits if output_order is None else logits[:, list(output_order)]
