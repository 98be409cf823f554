"""The inputs and outputs of networks."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_bench.errors import LowRankError


def logits_of(output: Any) -> Tensor:
    """Return the logits in what a network's `forward` returned: a tensor, or its `.logits`.

    Raises
    ------
    LowRankError
        When there are none.
    """
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise LowRankError(
            f"the network returns a {type(output).__name__} without logits, and the method needs "
            "its loss; wrap it so that it returns a tensor of scores"
        )
    return logits


def sentence_vectors(output: Any, inputs: Mapping[str, Tensor]) -> Tensor | None:
    """Return the vectors of an encoder of sentences, b×d of length one; None for other networks.

    A vector is the mean of the last hidden states over all tokens that are not padding.
    """
    states = getattr(output, "last_hidden_state", None)
    if not isinstance(states, Tensor) or states.ndim != 3:
        return None
    mask = inputs.get("attention_mask")
    real = states.new_ones(states.shape[:2]) if mask is None else mask.to(states)
    summed = (states * real.unsqueeze(-1)).sum(dim=1)
    vectors: Tensor = nn.functional.normalize(summed, dim=-1)
    return vectors


def repeated(example: Mapping[str, Tensor], batch: int) -> dict[str, Tensor]:
    """Return one example repeated to `batch` rows; inputs with more rows stay as they are.

    Raises
    ------
    LowRankError
        When `batch` is less than 1.
    """
    if batch < 1:
        raise LowRankError(f"a batch needs at least one row, not {batch}")
    return {
        name: value.repeat_interleave(batch, dim=0) if value.ndim and len(value) == 1 else value
        for name, value in example.items()
    }


def example_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the keyword arguments of one forward of a transformers model, batch size 1.

    Images are zeros of the size in the configuration, texts are the tokens 1 to 16.

    Raises
    ------
    LowRankError
        For networks that do not say what their input is.
    """
    config: Any = getattr(model, "config", None)
    size, device = getattr(config, "image_size", None), next(model.parameters()).device
    name = getattr(model, "main_input_name", None)
    if name == "pixel_values":
        side = size if isinstance(size, int) else 224
        channels = getattr(config, "num_channels", 3)
        return {name: torch.zeros(1, channels, side, side, device=device)}
    if name == "input_ids":
        words = getattr(config, "vocab_size", None)
        if isinstance(words, int):
            return {name: torch.arange(1, 17, device=device).unsqueeze(0) % words}
    raise LowRankError(
        f"{type(model).__name__} does not say what it takes; give example=, the keyword arguments "
        "of one forward, as {'x': torch.zeros(1, 3, 32, 32)}"
    )
