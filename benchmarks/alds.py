"""ALDS's global step against the published code: the objective reached and the CPU time taken.

    python benchmarks/alds.py [RESNET20.safetensors]
    python benchmarks/alds.py --quick    # the ResNet-20 alone

The networks are a ResNet-20 and a VGG16 with batch norm, created here with seed 0 and He's
initialization; the file may hold the weights of another ResNet-20 (torchprune's names). The
published code's seconds and objectives were measured on one thread at the same keep ratios, on its
own networks of the same kind, whose objectives differ by at most 1 %. Its objective is the error
`unscaled`. It counts non-zero parameters, so the biases of a fresh network, which are zero, do not
count towards its budget; both counts are shown. Budget: the share of all parameters that is kept,
minus those that are never compressed.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from measure import cpu_seconds
from safetensors.torch import load_file
from torch import Tensor, nn

from lowrank_bench.alds.cuts import Costs, Cuts, candidates_of
from lowrank_bench.alds.search import Candidates, Choice, exact
from lowrank_bench.alds.slices import Slices
from lowrank_bench.alds.summary import relative_norm
from lowrank_bench.inputs.vision.build import build_network
from lowrank_bench.layers.fold import unfold

KEEP = (0.5, 0.3, 0.1)
VGG16 = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Published:
    """Numbers of the published code at 0.5, 0.3 and 0.1.

    Attributes
    ----------
    seconds
        CPU seconds.
    objective
        The optimum of its own objective, where it is known.
    true
        The smallest known maximum of the spectral errors; empty if none is known.
    """

    seconds: tuple[float, ...]
    objective: tuple[float, ...]
    true: tuple[float, ...] = ()


PUBLISHED = {
    "resnet20": Published((1.2, 6.5, 4.1), (0.2921, 0.3330, 0.4231), (0.654, 0.781, 0.930)),
    "vgg16": Published((33.0, 29.0, 34.0), (0.2608, 0.2767, 0.3148)),
}


def vgg16() -> dict[str, Tensor]:
    """Return the parameters of a VGG16 with batch norm for 10 classes, He-initialized."""
    torch.manual_seed(0)
    channels: tuple[int, ...] = (3, *VGG16)
    layers: list[nn.Module] = []
    for wide, width in pairwise(channels):
        layers += [nn.Conv2d(wide, width, 3, padding=1), nn.BatchNorm2d(width)]
    network = nn.Sequential(*layers, nn.Linear(VGG16[-1], 10))
    for module in network:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
        nn.init.zeros_(module.bias)
    return {name: value.detach() for name, value in network.state_dict().items()}


def resnet20(file: str | None) -> dict[str, Tensor]:
    """Return the parameters of a ResNet-20 for 10 classes, from a file or He-initialized."""
    if file:
        return load_file(file)
    model = build_network("resnet20", 10)
    return {name: value.detach() for name, value in model.state_dict().items()}


def compressible(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """Return the weights of convolutions and linear layers."""
    return [value for value in tensors.values() if value.ndim in (2, 4)]


def budget(tensors: Mapping[str, Tensor], keep: float, nonzero: bool) -> int:
    """Return the number of parameters that the compressible weights may keep."""
    sizes = [
        int(value.count_nonzero()) if nonzero else value.numel()
        for name, value in tensors.items()
        if not name.endswith(BUFFERS)
    ]
    fixed = sum(sizes) - sum(weight.numel() for weight in compressible(tensors))
    return int(keep * sum(sizes)) - fixed


class Run:
    """One compression from the weights to the factors, reusing nothing from an earlier one."""

    def __init__(self, weights: Sequence[Tensor], error: str, limit: float) -> None:
        self.weights, self.error, self.limit = weights, error, limit

    def search(self) -> tuple[list[Slices], list[Choice]]:
        slices = [Slices(weight) for weight in self.weights]
        layers: list[Candidates] = [
            candidates_of({0: own}, Costs(weight.numel()), Cuts(self.error))
            for own, weight in zip(slices, self.weights, strict=True)
        ]
        return slices, exact(layers, self.limit)

    def __call__(self) -> None:
        slices, self.chosen = self.search()
        self.objective = max(choice.error for choice in self.chosen)
        self.replaced = [
            weight if choice.cut is None else self._product(own, choice)
            for own, weight, choice in zip(slices, self.weights, self.chosen, strict=True)
        ]

    @staticmethod
    def _product(own: Slices, choice: Choice) -> tuple[Tensor, Tensor]:
        return own.factors(choice.cut.groups, choice.rank)

    def true_error(self) -> float:
        """Return the largest ‖W − Ŵ‖/‖W‖ of the factors."""
        errors = [0.0]
        for weight, made in zip(self.weights, self.replaced, strict=True):
            if isinstance(made, tuple):
                shape = (*weight.shape, 1, 1)[:4]
                dense = weight.double().reshape(shape)
                errors.append(relative_norm(dense - unfold(made[0] @ made[1], shape, 0), dense))
        return max(errors)

    @property
    def share(self) -> float:
        """Return the parameters used as a share of the budget."""
        return sum(choice.cost for choice in self.chosen) / self.limit


def show(network: str, tensors: Mapping[str, Tensor]) -> None:
    """Print a line for each error, way of counting and keep ratio."""
    published, weights = PUBLISHED[network], compressible(tensors)
    ratios: dict[str, list[float]] = {}
    for error, nonzero in (("unscaled", True), ("unscaled", False), ("spectral", True)):
        for place, keep in enumerate(KEEP):
            run = Run(weights, error, budget(tensors, keep, nonzero))
            seconds = min(cpu_seconds(run) for _ in range(3 if network == "resnet20" else 1))
            known = published.objective if error == "unscaled" else published.true
            known_text = f"{known[place]:.4f}" if known else "-"
            ratio = published.seconds[place] / seconds
            ratios.setdefault(error, []).append(ratio)
            print(
                f"{network:9s} {error:9s} {'non-zero' if nonzero else 'stored':9s} {keep:4.1f} "
                f"{run.objective:9.5f} {known_text:>8s} {run.true_error():9.4f} {run.share:8.5f} "
                f"{seconds:8.2f} {ratio:8.1f}x"
            )
    for error, own in ratios.items():
        print(
            f"ratio: {network}, error {error}: the published code takes {min(own):.1f} to "
            f"{max(own):.1f} times our CPU seconds"
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", nargs="?", help="a ResNet-20's; default: drawn here")
    parser.add_argument("--quick", action="store_true", help="the ResNet-20 alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.linalg.eigh(torch.eye(3, dtype=torch.float64).expand(2, 3, 3))  # loads the library
    print(
        "network   error     counting  keep objective    known true err   budget  seconds  "
        "published code's over ours"
    )
    show("resnet20", resnet20(options.weights))
    if not options.quick:
        show("vgg16", vgg16())


if __name__ == "__main__":
    main()
