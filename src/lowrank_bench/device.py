"""The device to compute on."""

import torch

from lowrank_bench.errors import LowRankError


def best_device(asked: str | None = None) -> str:
    """Return `asked`, or the best device there is: cuda, mps, cpu."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if asked:
        if not there.get(asked, True):
            raise LowRankError(f"evaluation.device = {asked!r}, but this machine has none; use cpu")
        return asked
    return next((name for name, is_there in there.items() if is_there), "cpu")
