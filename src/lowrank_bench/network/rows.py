"""The rows that a layer multiplies: patches of images, features of tokens."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from lowrank_bench.layers.geometry import padded_input


def input_rows(module: nn.Module, inputs: Tensor) -> Tensor:
    """Return the rows that the weight of a layer is multiplied by, b×p×d.

    Parameters
    ----------
    module
        A convolution, whose patches have d = c·k1·k2 entries, channel by channel as
        torch.nn.functional.unfold gives them, or a linear layer.
    inputs
        The layer's input: tensor b×c×h×w, or b×…×d.
    """
    if not isinstance(module, nn.Conv2d):
        return inputs.reshape(len(inputs), -1, inputs.shape[-1])
    inputs = inputs if inputs.ndim == 4 else inputs.unsqueeze(0)
    patches = functional.unfold(
        padded_input(module, inputs),
        module.kernel_size,
        dilation=module.dilation,
        stride=module.stride,
    )
    return patches.transpose(1, 2)


def output_rows(module: nn.Module, output: Tensor) -> Tensor:
    """Return a layer's output, or the gradient there, as b×p×f in the order of `input_rows`."""
    if not isinstance(module, nn.Conv2d):
        return output.reshape(len(output), -1, output.shape[-1])
    output = output if output.ndim == 4 else output.unsqueeze(0)
    return output.flatten(2).transpose(1, 2)


def real_positions(inputs: Mapping[str, Tensor], values: Tensor) -> Tensor | None:
    """Return which positions b×p of a layer's input are not padding, or None if all count.

    Parameters
    ----------
    inputs
        Keyword arguments of the forward; `attention_mask` b×l says which tokens are real.
    values
        Input of the layer, b×l×… or, as in XLNet, l×b×….
    """
    mask = inputs.get("attention_mask")
    if mask is None or mask.ndim != 2 or values.ndim < 2:
        return None
    if values.shape[:2] == mask.shape:
        return mask.bool()
    turned = values.ndim > 2 and values.shape[:2] == mask.T.shape
    return mask.bool().T if turned else None


def choose_positions(rows: Tensor, limit: int, generator: torch.Generator) -> Tensor | None:
    """Return random indices of `limit` of the p positions of b×p×d; None if all are kept."""
    if rows.shape[1] <= limit:
        return None
    return torch.randperm(rows.shape[1], generator=generator)[:limit].to(rows.device)
