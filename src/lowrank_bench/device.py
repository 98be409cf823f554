"""How torch computes: the device, the precision, the number of threads, the mode of a network."""

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from lowrank_bench.errors import LowRankError


def best_device(asked: str | None = None, key: str = "evaluation.device") -> str:
    """Return `asked`, or the best device of this machine: cuda, mps or cpu.

    Raises
    ------
    LowRankError
        When this machine does not have the device that the setting `key` names.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if asked:
        if not available.get(asked, True):
            raise LowRankError(f"{key} = {asked!r}, but this machine has none; use cpu")
        return asked
    return next((name for name, has_it in available.items() if has_it), "cpu")


def autocast(device: str | torch.device, precision: str) -> AbstractContextManager[object]:
    """Return the context for a training step in `fp32`, `bf16` or `fp64`.

    In `bf16`, the operands of products are rounded to bfloat16; weights, sums, softmax and
    normalisation stay float32 (torch's automatic mixed precision).
    """
    if precision != "bf16":
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)


@contextmanager
def trained_in(model: nn.Module, precision: str, device: str | torch.device) -> Iterator[None]:
    """For `fp64`, hold a float32 network in float64 inside the block; on leaving, round it once.

    The last bits of a sum depend on the processor and its number of threads. Training may amplify
    them until other weights result; in float64 they stay far below what the rounding at the end
    takes away, so that machines agree (`tests/test_travel.py`).

    Raises
    ------
    LowRankError
        For `fp64` on a device that has no float64.
    """
    if precision != "fp64":
        yield
        return
    if torch.device(device).type == "mps":
        raise LowRankError(
            "recipe.precision = 'fp64', but mps has no float64; use recipe.precision=fp32 or "
            "evaluation.device=cpu"
        )
    model.double()
    try:
        yield
    finally:
        model.float()


def loss_precision(logits: Tensor) -> Tensor:
    """Return logits in the precision of the loss: float32, or float64 if they have it."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def in_precision(model: nn.Module, precision: str) -> nn.Module:
    """Return a network for prediction: itself for `fp32`, a copy in bfloat16 for `bf16`."""
    return model if precision == "fp32" else copy.deepcopy(model).to(torch.bfloat16)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a network's first parameter; the CPU if it has no parameters."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def dtype_of(model: nn.Module) -> torch.dtype:
    """Return the type of a network's first parameter; float32 if it has no parameters."""
    return next((parameter.dtype for parameter in model.parameters()), torch.float32)


@contextmanager
def fixed_threads(count: int) -> Iterator[None]:
    """Compute with `count` CPU threads; on leaving, the number is as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Put networks into evaluation mode; on leaving, every training flag is as before."""
    training = [part for model in models for part in model.modules() if part.training]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for part in training:
            part.training = True
