"""The device to compute on."""

import torch


def best_device(asked: str | None = None) -> str:
    """Return `asked`, or the best device there is: cuda, mps, cpu."""
    if asked:
        return asked
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
