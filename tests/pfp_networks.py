"""Small networks for the tests of PFP."""

import torch
from torch import nn

from lowrank_bench.inputs.vision.build import build_network
from lowrank_bench.network.problem import NetworkProblem

NETWORKS = {
    "resnet20": {"size": 8, "width": 4, "shortcut": "A"},
    "vgg16_bn": {"size": 32, "width": 2},
    "densenet22": {"size": 8, "layers": 1, "width": 4},
    "wrn16_8": {"size": 8, "blocks": 1, "width": 6},
}


def network(name):
    """A small network whose activations are partly dead, like those of trained networks."""
    torch.manual_seed(3)
    model = build_network(name, 4, **NETWORKS[name])
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, -0.2, 0.3)
    return model


def images(name, count=3):
    side = NETWORKS[name]["size"]
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def problem(name="resnet20", count=3, **more):
    pixels = images(name, count)
    batches = [({"pixel_values": part}, None) for part in pixels.split(2)]
    example = {"pixel_values": pixels[:1]}
    return NetworkProblem(network(name), "conv", example, lambda: iter(batches), **more)
