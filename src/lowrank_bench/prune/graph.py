"""Which channels of a network belong together, and the network without some of them.

Filters whose outputs are added must be pruned together, a batch normalisation loses the channels
of its input, a linear layer the features that a channel was flattened into. All of this is found
by one forward on an example in which every channel carries a label: layers write new labels,
additions unite them, and the rest moves them along with the numbers.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.layers.resize import MARK, sizes_of, slice_layer
from lowrank_bench.layers.shortcut import PaddedShortcut
from lowrank_bench.network.layers import Layer
from lowrank_bench.prune.labels import FIXED, Trace


@dataclass(frozen=True, eq=False)
class ChannelGraph:
    """The units of a network: sets of channels that are kept or pruned together.

    Unit 0 holds what cannot be pruned: the network's inputs and outputs.

    Attributes
    ----------
    reads, writes
        For each convolution and linear layer the unit of each input and output channel, int64.
    norms
        For each batch normalisation the unit of each channel.
    pads
        For each shortcut that pads channels its stride and the units of the zeros before and
        after.
    pools
        The units that the same layers write, int64; at least one unit of each must stay.
    n_units
        Number of units, unit 0 included.
    """

    reads: dict[str, np.ndarray]
    writes: dict[str, np.ndarray]
    norms: dict[str, np.ndarray]
    pads: dict[str, tuple[int, np.ndarray, np.ndarray]]
    pools: tuple[np.ndarray, ...]
    n_units: int

    def mask(self, kept: Sequence[np.ndarray]) -> np.ndarray:
        """Return for each unit whether it stays: those of `kept`, and unit 0."""
        mask = np.zeros(self.n_units, dtype=bool)
        mask[[FIXED, *np.concatenate(kept)]] = True
        return mask

    def readers(self, pool: np.ndarray) -> list[str]:
        """Return the layers that read a unit of a pool."""
        return [name for name, units in self.reads.items() if np.isin(units, pool).any()]


def trace(model: nn.Module, example: Mapping[str, Tensor]) -> ChannelGraph:
    """Return the units of a network.

    Parameters
    ----------
    model
        A network of convolutions, linear layers, batch normalisations and functions that act on
        each channel for itself; additions and concatenations of channels, depthwise convolutions,
        shortcuts that pad channels.
    example
        Keyword arguments of one forward, batch size 1.

    Raises
    ------
    LowRankError
        When a layer or a function mixes channels in another way, a convolution has groups, or no
        channel can be pruned.
    """
    found = Trace.of(model, example)
    roots = {FIXED: 0}
    for labels in found.writes.values():
        for root in found.find(labels):
            roots.setdefault(int(root), len(roots))

    def units(labels: np.ndarray) -> np.ndarray:
        """Return the units that these labels belong to."""
        found_roots = [roots.setdefault(int(root), len(roots)) for root in found.find(labels)]
        return np.array(found_roots, dtype=np.int64)

    reads = {name: units(labels) for name, labels in found.reads.items()}
    writes = {name: units(labels) for name, labels in found.writes.items()}
    norms = {name: units(labels) for name, labels in found.norms.items()}
    pads = {
        name: (stride, units(before), units(after))
        for name, (stride, before, after) in found.pads.items()
    }
    pools = _pools(writes, len(roots))
    if not pools:
        raise LowRankError(
            f"{type(model).__name__} has no filters to prune: its outputs fix all channels"
        )
    return ChannelGraph(reads, writes, norms, pads, pools, len(roots))


def _pools(writes: dict[str, np.ndarray], n_units: int) -> tuple[np.ndarray, ...]:
    """Group the units by the layers that write them."""
    writers: list[list[str]] = [[] for _ in range(n_units)]
    for name, units in writes.items():
        for unit in np.unique(units):
            writers[unit].append(name)
    pools: dict[tuple[str, ...], list[int]] = {}
    for unit in range(1, n_units):
        pools.setdefault(tuple(writers[unit]), []).append(unit)
    return tuple(np.array(pool) for pool in pools.values())


def kept_cost(
    graph: ChannelGraph, layers: Sequence[Layer], mask: np.ndarray, unit: str = "parameters"
) -> int:
    """Return the parameters or multiply-adds of the targeted layers once they are sliced.

    Parameters
    ----------
    mask
        Whether each unit stays.
    unit
        `parameters`: weights and biases; `macs`: multiply-adds of one example.
    """
    total = 0
    for layer in layers:
        inputs, outputs = channels_of(graph, layer, mask)
        weights = inputs * outputs * prod(layer.shape[2:])
        total += weights * layer.positions if unit == "macs" else weights
        total += 0 if unit == "macs" else layer.has_bias * outputs
    return total


def channels_of(graph: ChannelGraph, layer: Layer, mask: np.ndarray) -> tuple[int, int]:
    """Return how many input and output channels of a layer stay."""
    inputs, outputs = (mask[of[layer.name]].sum() for of in (graph.reads, graph.writes))
    return int(inputs), int(outputs)


def slice_network(
    model: nn.Module, graph: ChannelGraph, mask: np.ndarray, scale: np.ndarray | None = None
) -> nn.Module:
    """Return a copy of a network with only the units that stay, in evaluation mode.

    Its output is that of the dense network in which no layer reads the pruned channels.

    Parameters
    ----------
    mask
        Whether each unit stays; at least one of each pool.
    scale
        Factor of each unit by which all layers that read it multiply its weights. A depthwise
        convolution hands it on: its own readers multiply.
    """
    small = copy.deepcopy(model).eval()
    for name, units in graph.reads.items():
        layer = small.get_submodule(name)
        if scale is not None and getattr(layer, "groups", 1) == 1:
            _scale(layer, scale[units])
        _slice(layer, mask[units], mask[graph.writes[name]])
    for name, units in graph.norms.items():
        _slice(small.get_submodule(name), mask[units], mask[units])
    for name, (stride, before, after) in graph.pads.items():
        if not mask[np.concatenate([before, after])].all():
            sizes = int(mask[before].sum()), int(mask[after].sum())
            _pad(small, name, PaddedShortcut(*sizes, stride))
    return small


def _scale(layer: nn.Module, factors: np.ndarray) -> None:
    if (factors != 1).any():
        shape = (1, -1, *[1] * (layer.weight.ndim - 2))
        with torch.no_grad():
            layer.weight.mul_(torch.from_numpy(factors).to(layer.weight).view(shape))


def _slice(layer: nn.Module, inputs: np.ndarray, outputs: np.ndarray) -> None:
    if inputs.all() and outputs.all():
        return
    device = next((value.device for value in layer.state_dict().values()), torch.device("cpu"))
    kept = (torch.from_numpy(np.flatnonzero(part)).to(device) for part in (inputs, outputs))
    slice_layer(layer, *kept)


def _pad(model: nn.Module, name: str, shortcut: PaddedShortcut) -> None:
    parent, _, own = name.rpartition(".")
    old = model.get_submodule(name)
    setattr(shortcut, MARK, getattr(old, MARK, sizes_of(old)))
    setattr(model.get_submodule(parent), own, shortcut.eval())
