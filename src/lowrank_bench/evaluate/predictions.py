"""Predict on every split of a task with one network."""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from lowrank_bench.device import in_precision

if TYPE_CHECKING:
    from lowrank_bench.inputs.modality import Encoded, Modality


def predict_splits(
    modality: "Modality",
    model: nn.Module,
    processor: Any,
    splits: Mapping[str, "Encoded"],
    max_tokens: int,
    device: str = "cpu",
    output_order: Sequence[int] | None = None,
    precision: str = "fp32",
) -> tuple[dict[str, NDArray[np.float32]], float]:
    """Return the logits of each split, n×labels in the order of the labels, and the seconds.

    Parameters
    ----------
    splits
        Encoded rows, by the name of the split.
    max_tokens
        Padded tokens of one batch.
    output_order
        For each label the number of the network's output for it; None when they agree.
    precision
        Of the forward: `fp32` or `bf16`.
    """
    start = time.perf_counter()
    model = in_precision(model, precision)
    settings = (max_tokens, device, output_order)
    predictions = {
        name: modality.predict(model, processor, rows, *settings) for name, rows in splits.items()
    }
    return predictions, time.perf_counter() - start
