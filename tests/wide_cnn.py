"""A CNN whose layers are wide enough for factors to be faster, and inputs for it."""

import torch
from torch import nn


def cnn() -> nn.Module:
    """Return a network whose middle layers are wide enough for factors to be faster."""
    torch.manual_seed(0)
    wide = [nn.Conv2d(160, 160, 3, padding=1), nn.BatchNorm2d(160), nn.ReLU()]
    stem = [nn.Conv2d(3, 160, 3, padding=1), nn.ReLU()]
    more = [nn.Conv2d(160, 160, 3, padding=1), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(160, 10)]
    return nn.Sequential(*stem, *wide, *more, *head).eval()


def images(rows: int) -> dict[str, torch.Tensor]:
    return {"input": torch.randn(rows, 3, 8, 8, generator=torch.Generator().manual_seed(1))}
