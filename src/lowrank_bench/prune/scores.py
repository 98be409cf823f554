"""Scores of units of channels in the baselines: norms of their filters, and ThiNet's order."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lowrank_bench.layers.geometry import padded_input
from lowrank_bench.network.hooks import Watcher, watching
from lowrank_bench.network.moments import check_seen
from lowrank_bench.prune.examples import check_outputs
from lowrank_bench.prune.graph import ChannelGraph


def filter_norms(model: nn.Module, graph: ChannelGraph, power: int) -> NDArray[np.float64]:
    """Return for each unit the ℓp norm of all its filters together, float64.

    Parameters
    ----------
    power
        p: 1 as in Li et al. (ICLR 2017), or 2 as in He et al. (IJCAI 2018).
    """
    total = np.zeros(graph.n_units)
    for name, units in graph.writes.items():
        weight = model.get_parameter(f"{name}.weight").detach().double().flatten(1)
        np.add.at(total, units, weight.abs().pow(power).sum(1).cpu().numpy())
    norms: NDArray[np.float64] = total ** (1 / power)
    return norms


def removal_order(products: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the columns in the order in which ThiNet removes them, the least needed first.

    Each step removes the channel for which the sum over all outputs of (the sum of the removed
    products)² grows least.

    Parameters
    ----------
    products
        The part of each of n sampled outputs that each of c channels contributes, n×c.

    References
    ----------
    Luo, Wu, Lin, "ThiNet: A Filter Level Pruning Method for Deep Neural Network Compression",
    ICCV 2017, equation 6 and Algorithm 1.
    """
    squares = (products**2).sum(axis=0)
    removed = np.zeros(len(products))
    order, remaining = [], np.ones(products.shape[1], dtype=bool)
    for _ in range(products.shape[1]):
        # Σ (r + x)² − Σ r² for removed products r and those of the next channel, x.
        cost = np.where(remaining, squares + 2 * (removed @ products), np.inf)
        best = int(cost.argmin())
        order.append(best)
        remaining[best] = False
        removed += products[:, best]
    return np.array(order)


def sampled_products(
    model: nn.Module,
    graph: ChannelGraph,
    batches: Sequence[Mapping[str, Tensor]],
    samples: int,
    seed: int,
) -> dict[str, NDArray[np.float64]]:
    """Return what each unit contributes to randomly drawn outputs of each layer that reads it.

    Parameters
    ----------
    batches
        Keyword arguments of forwards.
    samples
        Number of outputs of each layer, each of a random image, filter and position.

    Returns
    -------
    dict
        For each layer `samples`×units float64, divided by the root mean square of the outputs, so
        that layers that read the same channels have the same weight.

    Raises
    ------
    LowRankError
        When the network's outputs are NaN or infinite, or a layer does not run.
    """
    # The images are drawn for all layers before the pass, so that one pass serves all of them.
    sizes = [len(next(iter(batch.values()))) for batch in batches]
    rng = np.random.default_rng(seed)
    images = {name: np.sort(rng.integers(sum(sizes), size=samples)) for name in graph.reads}
    products: dict[str, list[NDArray[np.float64]]] = {name: [] for name in graph.reads}
    start = 0  # number of images in the batches before

    def watch(name: str) -> Watcher:
        """Return the watcher that samples outputs of a layer."""
        layer, units = model.get_submodule(name), graph.reads[name]

        def take(inputs: Tensor, _: Tensor) -> None:
            """Keep the products of the images that were drawn."""
            # Drawn images are numbered over all batches; `start` shifts them to this one.
            drawn = images[name]
            for image in drawn[(drawn >= start) & (drawn < start + len(inputs))]:
                part = _product(layer, inputs[image - start], rng)
                totals = np.bincount(units, part, minlength=graph.n_units)
                products[name].append(totals.astype(np.float64, copy=False))

        return take

    plain = [n for n in graph.reads if getattr(model.get_submodule(n), "groups", 1) == 1]
    with torch.inference_mode(), watching(model, {name: watch(name) for name in plain}):
        for batch, size in zip(batches, sizes, strict=True):
            check_outputs(model(**batch))
            start += size
    check_seen({name: len(products[name]) for name in plain})
    return {name: _scaled(np.stack(products[name])) for name in plain}


def _product(layer: nn.Module, inputs: Tensor, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return what each input channel of one image contributes to one random output of a layer."""
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    weight = layer.weight[int(rng.integers(len(layer.weight)))].double()
    product: NDArray[np.float64]
    if isinstance(layer, nn.Linear):
        rows = inputs.reshape(-1, inputs.shape[-1])
        product = (weight * rows[int(rng.integers(len(rows)))]).cpu().numpy()
        return product
    # A random output pixel: padding first, so that borders count as the layer sees them.
    padded = padded_input(layer, inputs[None])[0]
    # Slices of the pixels that the kernel covers at a random position, along height and width.
    patch = []
    for side, kernel, step, gap in zip(
        padded.shape[1:], layer.kernel_size, layer.stride, layer.dilation, strict=True
    ):
        count = (side - (kernel - 1) * gap - 1) // step + 1
        first = int(rng.integers(count)) * step
        patch.append(slice(first, first + (kernel - 1) * gap + 1, gap))
    product = (weight * padded[:, patch[0], patch[1]]).sum(dim=(1, 2)).cpu().numpy()
    return product


def _scaled(products: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide by the root mean square of the outputs, which are the sums of the rows."""
    size = np.sqrt((products.sum(axis=1) ** 2).mean())
    return products / size if size > 0 else products
