"""What a unit of channels is worth to the baselines: norms of its filters, and ThiNet's order."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lowrank_bench.network.hooks import Watcher, watching
from lowrank_bench.network.moments import check_seen
from lowrank_bench.prune.graph import ChannelGraph
from lowrank_bench.prune.sensitivity import check_finite


def filter_norms(model: nn.Module, graph: ChannelGraph, power: int) -> np.ndarray:
    """Return the ℓp norm of all filters of each unit together, float64.

    Parameters
    ----------
    power
        p: 1 as in Li et al. (ICLR 2017), or 2 as in He et al. (IJCAI 2018).
    """
    total = np.zeros(graph.n_units)
    for name, units in graph.writes.items():
        weight = model.get_submodule(name).weight.detach().double().flatten(1)
        np.add.at(total, units, weight.abs().pow(power).sum(1).cpu().numpy())
    return total ** (1 / power)


def removal_order(products: np.ndarray) -> np.ndarray:
    """Return the columns in the order in which ThiNet removes them, the least needed first.

    Each step removes the channel that leaves Σ (Σ of the removed products)² least.

    Parameters
    ----------
    products
        What each of c channels adds to each of n sampled outputs, n×c.

    References
    ----------
    Luo, Wu, Lin, "ThiNet: A Filter Level Pruning Method for Deep Neural Network Compression",
    ICCV 2017, equation 6 and Algorithm 1.
    """
    squares = (products**2).sum(axis=0)
    removed = np.zeros(len(products))
    order, left = [], np.ones(products.shape[1], dtype=bool)
    for _ in range(products.shape[1]):
        cost = np.where(left, squares + 2 * (removed @ products), np.inf)
        best = int(cost.argmin())
        order.append(best)
        left[best] = False
        removed += products[:, best]
    return np.array(order)


def sampled_products(
    model: nn.Module,
    graph: ChannelGraph,
    batches: Sequence[Mapping[str, Tensor]],
    samples: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Return what each unit adds to randomly drawn outputs of each layer that reads it.

    Parameters
    ----------
    batches
        Inputs of forwards.
    samples
        Outputs of each layer; each is of a random image, filter and place.

    Returns
    -------
    dict
        For each layer `samples`×units float64, divided by the root mean square of the outputs, so
        that layers that read the same channels count the same.

    Raises
    ------
    LowRankError
        When what the network gives is NaN or infinite.
    """
    sizes = [len(next(iter(batch.values()))) for batch in batches]
    rng = np.random.default_rng(seed)
    images = {name: np.sort(rng.integers(sum(sizes), size=samples)) for name in graph.reads}
    found: dict[str, list[np.ndarray]] = {name: [] for name in graph.reads}
    start = 0

    def watch(name: str) -> Watcher:
        """Return what samples the inputs of a layer."""
        layer, units = model.get_submodule(name), graph.reads[name]

        def take(given: Tensor, _: Tensor) -> None:
            """Keep the products of the images that are drawn."""
            here = images[name][(images[name] >= start) & (images[name] < start + len(given))]
            for image in here:
                part = _product(layer, given[image - start], rng)
                found[name].append(np.bincount(units, part, minlength=graph.n_units))

        return take

    plain = [n for n in graph.reads if getattr(model.get_submodule(n), "groups", 1) == 1]
    with torch.inference_mode(), watching(model, {name: watch(name) for name in plain}):
        for batch, size in zip(batches, sizes, strict=True):
            check_finite(model(**batch))
            start += size
    check_seen({name: len(found[name]) for name in plain})
    return {name: _scaled(np.stack(found[name])) for name in plain}


def _product(layer: nn.Conv2d | nn.Linear, given: Tensor, rng: np.random.Generator) -> np.ndarray:
    """Return what each input channel of one image adds to one random output of a layer."""
    weight = layer.weight[int(rng.integers(len(layer.weight)))].double()
    if weight.ndim == 1:
        rows = given.reshape(-1, given.shape[-1])
        return (weight * rows[int(rng.integers(len(rows)))]).cpu().numpy()
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = functional.pad(given[None], layer._reversed_padding_repeated_twice, mode)[0]
    place = []
    for side, kernel, step, gap in zip(
        padded.shape[1:], layer.kernel_size, layer.stride, layer.dilation, strict=True
    ):
        count = (side - (kernel - 1) * gap - 1) // step + 1
        first = int(rng.integers(count)) * step
        place.append(slice(first, first + (kernel - 1) * gap + 1, gap))
    return (weight * padded[:, place[0], place[1]]).sum(dim=(1, 2)).cpu().numpy()


def _scaled(products: np.ndarray) -> np.ndarray:
    size = np.sqrt((products.sum(axis=1) ** 2).mean())
    return products / size if size > 0 else products
