"""Predictions of an image classifier on one split."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from lowrank_bench.inputs.vision.images import Encoded, batches
from lowrank_bench.inputs.vision.settings import ImageSettings
from lowrank_bench.network.forward import logits_of

PIXELS = 16  # of one token: an image of 32×32 counts as 64


def predict(
    model: nn.Module,
    processor: ImageSettings,
    encoded: Encoded,
    max_tokens: int,
    device: str = "cpu",
    output_order: Sequence[int] | None = None,
) -> np.ndarray:
    """Return the logits of every row, n×labels float32, in the order of the rows.

    Parameters
    ----------
    max_tokens
        Bounds a batch: sixteen pixels count as one token.
    output_order
        For each label of the task, which output means it; None when they agree.
    """
    size = max(1, PIXELS * max_tokens // processor.size**2)
    kind = next((p.dtype for p in model.parameters()), torch.float32)
    with torch.inference_mode():
        found = [
            logits_of(model(pixel_values=inputs["pixel_values"].to(kind))).float().cpu()
            for inputs, _ in batches(encoded, processor, range(len(encoded)), device, size)
        ]
    logits = torch.cat(found).numpy()
    return logits if output_order is None else logits[:, list(output_order)]
