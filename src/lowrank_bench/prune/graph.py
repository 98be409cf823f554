"""Which channels of a network belong together, and the network without some of them.

Filters whose outputs are added must be pruned together. A batch normalisation loses the channels
that its input loses, and a linear layer the features that a channel was flattened into. One forward
on an example shows all of this: every channel carries a label, layers write new labels, additions
unite them, and other functions move them along with the numbers.
"""

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.layers.resize import dense_sizes, replace_shortcut, slice_layer
from lowrank_bench.layers.shortcut import PaddedShortcut
from lowrank_bench.network.layers import Layer
from lowrank_bench.prune.labels import FIXED
from lowrank_bench.prune.trace import trace_channels

Units = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ChannelGraph:
    """The units of a network: sets of channels that are kept or pruned together.

    Unit 0 holds the channels that cannot be pruned, such as the network's inputs and outputs.

    Attributes
    ----------
    reads, writes
        For each convolution and linear layer the unit of each input and output channel, int64.
    norms
        For each batch normalisation the unit of each channel.
    pads
        For each shortcut that pads channels: its stride, and the units of the zeros before and
        after the others.
    pools
        The units that the same layers write, int64; at least one unit of each pool must stay.
    n_units
        Number of units, unit 0 included.
    """

    reads: dict[str, Units]
    writes: dict[str, Units]
    norms: dict[str, Units]
    pads: dict[str, tuple[int, Units, Units]]
    pools: tuple[Units, ...]
    n_units: int

    def mask(self, kept: Sequence[Units]) -> NDArray[np.bool_]:
        """Return for each unit whether it stays: those of `kept`, and unit 0."""
        mask = np.zeros(self.n_units, dtype=bool)
        mask[[FIXED, *np.concatenate(kept)]] = True
        return mask

    def readers(self, pool: Units) -> list[str]:
        """Return the layers that read a unit of a pool."""
        return [name for name, units in self.reads.items() if np.isin(units, pool).any()]


def trace(
    model: nn.Module, example: Mapping[str, Tensor], held: Collection[str] = ()
) -> ChannelGraph:
    """Return the units of a network.

    Parameters
    ----------
    model
        A network of convolutions, linear layers, batch normalisations and functions that keep
        channels apart; it may add and concatenate channels, and have depthwise convolutions and
        shortcuts that pad channels.
    example
        Keyword arguments of a forward, batch size 1.
    held
        Names of modules that stay as they are, with the channels that they read and write.

    Raises
    ------
    LowRankError
        When a layer or a function mixes channels in another way, when a convolution has groups
        but is not depthwise, or when no channel can be pruned.
    """
    channels = trace_channels(model, example, held)
    # Units are numbered in the order in which layers write them.
    roots = {FIXED: 0}

    def units(labels: Units) -> Units:
        """Return the units that these labels belong to; those without a number get one."""
        numbers = [roots.setdefault(int(root), len(roots)) for root in channels.labels.find(labels)]
        return np.array(numbers, dtype=np.int64)

    writes = {name: units(labels) for name, labels in channels.writes.items()}
    reads = {name: units(labels) for name, labels in channels.reads.items()}
    norms = {name: units(labels) for name, labels in channels.norms.items()}
    pads = {
        name: (stride, units(before), units(after))
        for name, (stride, before, after) in channels.pads.items()
    }
    pools = _pools(writes, len(roots))
    if not pools:
        raise LowRankError(
            f"{type(model).__name__} has no filters to prune: its outputs fix all channels"
        )
    return ChannelGraph(reads, writes, norms, pads, pools, len(roots))


def _pools(writes: dict[str, Units], n_units: int) -> tuple[Units, ...]:
    """Group the units by the layers that write them."""
    writers: list[list[str]] = [[] for _ in range(n_units)]
    for name, units in writes.items():
        for unit in np.unique(units):
            writers[unit].append(name)
    # Units that the same layers write are interchangeable; unit 0 is fixed and in no pool.
    pools: dict[tuple[str, ...], list[int]] = {}
    for unit in range(1, n_units):
        pools.setdefault(tuple(writers[unit]), []).append(unit)
    return tuple(np.array(pool) for pool in pools.values())


def kept_cost(
    graph: ChannelGraph, layers: Sequence[Layer], mask: NDArray[np.bool_], unit: str = "parameters"
) -> int:
    """Return the parameters or multiply-adds of layers after slicing.

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


def channels_of(graph: ChannelGraph, layer: Layer, mask: NDArray[np.bool_]) -> tuple[int, int]:
    """Return how many input and output channels of a layer stay."""
    inputs, outputs = (mask[units[layer.name]].sum() for units in (graph.reads, graph.writes))
    return int(inputs), int(outputs)


def slice_network(
    model: nn.Module,
    graph: ChannelGraph,
    mask: NDArray[np.bool_],
    scale: NDArray[np.float64] | None = None,
) -> nn.Module:
    """Return a copy of a network with only the units that stay, in evaluation mode.

    It computes what the dense network would if no layer read the pruned channels.

    Parameters
    ----------
    mask
        Whether each unit stays; at least one of each pool.
    scale
        For each unit the factor on the weights of all layers that read it. Depthwise convolutions
        are left out: the layers that read their outputs apply the factor.
    """
    small = copy.deepcopy(model).eval()
    for name, units in graph.reads.items():
        layer = small.get_submodule(name)
        if scale is not None and getattr(layer, "groups", 1) == 1:
            _scale(layer.get_parameter("weight"), scale[units])
        _slice(layer, mask[units], mask[graph.writes[name]])
    for name, units in graph.norms.items():
        _slice(small.get_submodule(name), mask[units], mask[units])
    for name, (stride, before, after) in graph.pads.items():
        # The shortcut pads with zero channels; how many depends on what was pruned on each side.
        if not mask[np.concatenate([before, after])].all():
            sizes = int(mask[before].sum()), int(mask[after].sum())
            shortcut = PaddedShortcut(*sizes, stride).eval()
            replace_shortcut(small, name, shortcut, dense_sizes(small.get_submodule(name)))
    return small


def _scale(weight: Tensor, factors: NDArray[np.float64]) -> None:
    """Multiply a weight f×c×… by a factor for each of its c input channels, in place."""
    if (factors != 1).any():
        shape = (1, -1, *[1] * (weight.ndim - 2))
        with torch.no_grad():
            weight.mul_(torch.from_numpy(factors).to(weight).view(shape))


def _slice(layer: nn.Module, inputs: NDArray[np.bool_], outputs: NDArray[np.bool_]) -> None:
    if inputs.all() and outputs.all():
        return
    device = next((value.device for value in layer.state_dict().values()), torch.device("cpu"))
    kept = (torch.from_numpy(np.flatnonzero(part)).to(device) for part in (inputs, outputs))
    slice_layer(layer, *kept)
