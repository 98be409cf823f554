"""The loss of a network on rows that are kept out of its training."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from lowrank_bench.inputs.modality import Encoded, Modality

HELD_OUT_TOKENS = 4096  # of one batch, with padding


def held_out_loss(
    modality: "Modality", processor: Any, rows: "Encoded"
) -> Callable[[nn.Module], float]:
    """Return a function that computes a network's mean loss on rows it is not trained on."""

    def loss(model: nn.Module) -> float:
        """Return the loss that training minimises, on the held-out rows."""
        device = str(next(model.parameters()).device)
        logits = modality.predict(model, processor, rows, HELD_OUT_TOKENS, device)
        return _loss(torch.from_numpy(logits), torch.as_tensor(rows.labels))

    return loss


def _loss(logits: Tensor, labels: Tensor) -> float:
    if logits.shape[-1] == 1:
        return float(nn.functional.mse_loss(logits.squeeze(-1), labels.float()))
    return float(nn.functional.cross_entropy(logits, labels))
