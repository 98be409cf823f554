"""A small CNN for the tests of layerwise methods."""

import torch
from torch import nn

from lowrank_bench.network.problem import NetworkProblem


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 12, 3, padding=1, stride=2)
        self.last = nn.Linear(12, 10)

    def forward(self, images):
        hidden = self.norm(self.first(images)).relu()
        return self.last(self.second(hidden).relu().mean((2, 3)))


def cnn_problem(**options) -> NetworkProblem:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(16, 3, 8, 8, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = Cnn().eval()
    batches = [({"images": images}, torch.arange(16) % 10)]
    return NetworkProblem(net, "conv", {"images": images[:1]}, lambda: batches, **options)
