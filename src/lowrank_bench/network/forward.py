"""What networks take and return."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_bench.errors import LowRankError


def logits_of(output: Any) -> Tensor:
    """Return the logits of what a network's `forward` returned: a tensor, or it has `.logits`.

    Raises
    ------
    LowRankError
        When it is neither.
    """
    found = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(found, Tensor):
        raise LowRankError(
            f"the network returns a {type(output).__name__} without logits, and the method looks "
            "at its loss; wrap it so that it returns a tensor of scores"
        )
    return found


def repeated(example: Mapping[str, Tensor], batch: int) -> dict[str, Tensor]:
    """Return a batch that holds one example so many times; batches stay as they are.

    Raises
    ------
    LowRankError
        When the batch has no rows.
    """
    if batch < 1:
        raise LowRankError(f"a batch needs at least one row, not {batch}")
    return {
        name: value.repeat_interleave(batch, dim=0) if value.ndim and len(value) == 1 else value
        for name, value in example.items()
    }


def example_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the keyword arguments of one forward of a transformers model, batch size 1.

    Images are zeros of the size that the configuration names, texts its dummy tokens.

    Raises
    ------
    LowRankError
        For other networks, of which nothing is known.
    """
    config = getattr(model, "config", None)
    size, device = getattr(config, "image_size", None), next(model.parameters()).device
    name = getattr(model, "main_input_name", None)
    if name == "pixel_values":
        side = size if isinstance(size, int) else 224
        channels = getattr(config, "num_channels", 3)
        return {name: torch.zeros(1, channels, side, side, device=device)}
    if name == "input_ids":
        return {name: torch.arange(1, 17, device=device).unsqueeze(0) % config.vocab_size}
    raise LowRankError(
        f"{type(model).__name__} does not say what it takes; give example=, the keyword arguments "
        "of one forward, as {'x': torch.zeros(1, 3, 32, 32)}"
    )
