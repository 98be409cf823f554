"""A small CNN and a small transformer, with inputs, on which network methods are checked."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """A residual block, as in a ResNet."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the input and of two convolutions of it."""
        inner = self.bn1(self.conv1(x)).relu()
        outputs: Tensor = (x + self.bn2(self.conv2(inner))).relu()
        return outputs


class Cnn(nn.Module):
    """A network with a residual block and two stages, for images of 8×8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.block = Block(8)
        self.down = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.head = nn.Linear(16, 5)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return five outputs for each image."""
        outputs: Tensor = self.head(self.down(self.block(self.stem(pixel_values))).mean(dim=(2, 3)))
        return outputs


def network(target: str) -> nn.Module:
    """Return the network for a target, the same weights at every call, in evaluation mode."""
    torch.manual_seed(0)
    if target == "conv":
        model = Cnn()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
        return model.eval()
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 24, "intermediate_size": 48, "num_attention_heads": 2}
    config = BertConfig(vocab_size=60, num_hidden_layers=2, num_labels=3, **sizes)
    bert: nn.Module = BertForSequenceClassification(config).eval()
    return bert


def inputs(target: str, rows: int, seed: int = 0) -> dict[str, Tensor]:
    """Return keyword arguments of a forward."""
    generator = torch.Generator().manual_seed(seed)
    if target == "conv":
        return {"pixel_values": torch.randn(rows, 3, 8, 8, generator=generator)}
    return {"input_ids": torch.randint(1, 60, (rows, 7), generator=generator)}


def options(target: str) -> dict[str, Any]:
    """Return the other arguments of `compress_network`: target, example and batches."""

    def batches() -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """Yield two labelled batches."""
        for seed in (1, 2):
            yield inputs(target, 16, seed), torch.arange(16) % 3

    return {"target": target, "example": inputs(target, 1), "batches": batches}
