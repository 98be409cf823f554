"""PFP: the sensitivities of all channels, ours against a loop over filters and images.

python benchmarks/pfp.py            # ResNet-20 and VGG16, as many images as the paper
python benchmarks/pfp.py --quick    # only the ResNet-20, on fewer images
"""

import math
from collections.abc import Iterator
from functools import partial

import torch
from measure import Row, cpu_seconds, interleaved, show
from torch import Tensor, nn
from torch.nn import functional

from lowrank_bench.inputs.vision.build import build_network
from lowrank_bench.methods import make_method
from lowrank_bench.network.hooks import watching
from lowrank_bench.network.problem import NetworkProblem
from lowrank_bench.prune.provable import unit_sensitivities
from lowrank_bench.prune.select import graph_of, ranked
from lowrank_bench.prune.sensitivity import sensitivities

# CPU seconds of the published code for one compression, measured on one core.
PUBLISHED = {"resnet20": 22.0, "vgg16_bn": 156.0}
IMAGES = {"resnet20": 183, "vgg16_bn": 188}  # |S| in the paper
TINY = torch.finfo(torch.float32).eps


def loop(model: nn.Module, names: list[str], images: Tensor) -> dict[str, Tensor]:
    """Return the sensitivities by the formula, image by image and filter by filter."""
    best = {name: torch.zeros(model.get_submodule(name).weight.shape[1]) for name in names}

    def watcher(name: str, given: Tensor, _: Tensor) -> None:
        layer = model.get_submodule(name)
        for image in given:
            for half in (image, -image) if (image < 0).any() else (image,):
                shares = _layer_shares(layer, half.clamp(min=0))
                best[name] = torch.maximum(best[name], shares)

    with torch.inference_mode(), watching(model, {n: partial(watcher, n) for n in names}):
        model(images)
    return best


def _layer_shares(layer: nn.Module, image: Tensor) -> Tensor:
    weight = layer.weight
    if weight.ndim == 2:
        patches = image[:, None]
    else:
        patches = functional.unfold(
            image[None], layer.kernel_size, layer.dilation, layer.padding, layer.stride
        )[0]
    best = torch.zeros(weight.shape[1])
    for filter_ in weight:
        for signed in (filter_.clamp(min=0), (-filter_).clamp(min=0)):
            products = signed.reshape(-1, 1) * patches
            sums = products.sum(0)
            shares = torch.where(sums > TINY, products / sums, 0).amax(1)
            best = torch.maximum(best, shares.view(weight.shape[1], -1).amax(1))
    return best


def problem(name: str, count: int) -> tuple[NetworkProblem, Tensor]:
    """Return a network with random weights, to be pruned with random images."""
    images = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = build_network(name, 10)
    batches = [({"pixel_values": images}, None)]
    return NetworkProblem(model, "conv", {"pixel_values": images[:1]}, lambda: batches), images


def agreement(given: NetworkProblem, ours: dict[str, Tensor], truth: dict[str, Tensor]) -> str:
    """Return how many channels only one of the two keeps, summed over three budgets."""
    graph = graph_of(given)
    orders = [
        ranked(
            graph.pools, unit_sensitivities(graph, {n: part.numpy() for n, part in found.items()})
        )
        for found in (ours, truth)
    ]
    gap = max(float((ours[name] - truth[name]).abs().max()) for name in ours)
    kept = differing = 0
    for share in (0.5, 0.3, 0.1):
        for one, two in zip(*orders, strict=True):
            count = math.ceil(share * len(one))
            kept += count
            differing += len(set(one[:count]) - set(two[:count]))
    return f"{differing} of {kept} kept channels differ, largest difference {gap:.1e}"


def rows(quick: bool) -> Iterator[Row]:
    """Yield the lines of the table."""
    for name in ("resnet20",) if quick else ("resnet20", "vgg16_bn"):
        count = 32 if quick else IMAGES[name]
        few = 4
        given, images = problem(name, count)
        graph = graph_of(given)
        names = [layer for layer, units in graph.reads.items() if units.any()]
        calls = [
            partial(sensitivities, given.model, names, [{"pixel_values": images}]),
            partial(loop, given.model, names, images[:few]),
        ]
        alone = interleaved(calls[0])[0]  # alone, as the published code was measured
        own, plain = interleaved(*calls, repeats=1 if quick else 3)
        plain *= count / few
        found = sensitivities(given.model, names, [{"pixel_values": images[:few]}])
        note = (
            f"{own:.2f} s against {plain:.1f} s (the loop on {few} images, times {count / few:g}); "
            f"on {few} images {agreement(given, found, calls[1]())}"
        )
        yield Row(f"PFP sensitivities of {name}, {count} images, loop", own / plain, None, note)
        if not quick:
            published = PUBLISHED[name]
            note = f"{alone:.2f} s against {published:g} s, measured before on such a core"
            yield Row(f"PFP sensitivities of {name}, published code", alone / published, None, note)
        yield _whole(name, given)


def _whole(name: str, given: NetworkProblem) -> Row:
    """Return the cost of a compression after the sensitivities, and the shares that it kept."""
    make_method("pfp").compress(given, 0.5)
    results = []
    seconds = cpu_seconds(
        lambda: results.extend(make_method("pfp").compress(given, c) for c in (0.5, 0.7, 0.9))
    )
    kept = [sum(one["parameters"] for one in result.layers) for result in results]
    dense = sum(layer.parameters for layer in given.layers)
    shares = ", ".join(f"{part / dense:.4f}" for part in kept)
    assert all(part <= share * dense for part, share in zip(kept, (0.5, 0.3, 0.1), strict=True))
    note = f"{seconds / 3:.2f} s each; kept {shares} of 0.5, 0.3, 0.1"
    return Row(f"PFP {name}, error and slicing after the sensitivities", None, None, note)


if __name__ == "__main__":
    show(__doc__.splitlines()[0], rows)
