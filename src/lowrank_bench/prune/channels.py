"""Which channels each layer of a network reads and writes, by their labels."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lowrank_bench.errors import LowRankError
from lowrank_bench.layers.shortcut import PaddedShortcut
from lowrank_bench.prune.labels import Labels

LAYERS = (nn.Conv2d, nn.Linear, _BatchNorm, PaddedShortcut)
Channels = NDArray[np.int64]


class LayerChannels:
    """The labels of the channels of all layers that have run.

    Attributes
    ----------
    labels
        The labels of tensors, and which of them were united.
    reads, writes, norms
        Labels of the channels of each layer, by its name, int64.
    pads
        Stride of each padding shortcut, and the labels of the zeros that it puts before and after.
    """

    def __init__(self) -> None:
        self.labels = Labels()
        self.reads: dict[str, Channels] = {}
        self.writes: dict[str, Channels] = {}
        self.norms: dict[str, Channels] = {}
        self.pads: dict[str, tuple[int, Channels, Channels]] = {}

    def names(self) -> set[str]:
        """Return the names of the layers that have run."""
        return {*self.reads, *self.writes, *self.norms, *self.pads}

    def fix(self, names: Iterable[str]) -> None:
        """Forget layers, and fix the channels that they read or write: they stay as they are."""
        tables: tuple[dict[str, Any], ...] = (self.reads, self.writes, self.norms, self.pads)
        for name in names:
            for table in tables:
                for channels in _arrays(table.pop(name, ())):
                    self.labels.fix(torch.from_numpy(channels))

    def pass_through(self, layer: nn.Module, name: str, inputs: Tensor, outputs: Tensor) -> None:
        """Note the channels that a layer reads, and label what it writes.

        Raises
        ------
        LowRankError
            When the layer mixes channels in a way that pruning does not know.
        """
        if isinstance(layer, nn.Conv2d | nn.Linear):
            self._product(layer, name, inputs, outputs)
        elif isinstance(layer, _BatchNorm):
            self._join(self.norms, name, self._channels(inputs, 1, name))
            self.labels.give(outputs, self.labels.of(inputs))
        elif isinstance(layer, PaddedShortcut):
            channels = self._channels(inputs, 1, name)
            before, after = self.labels.new(layer.before), self.labels.new(layer.after)
            self.pads[name] = layer.stride, before, after
            padded = torch.from_numpy(np.concatenate([before, channels, after]))
            self.labels.give(outputs, padded.view(1, -1, 1, 1))

    def _product(
        self, layer: nn.Conv2d | nn.Linear, name: str, inputs: Tensor, outputs: Tensor
    ) -> None:
        dim = -3 if isinstance(layer, nn.Conv2d) else -1  # images may come without a batch
        read = self._channels(inputs, dim, name)
        groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
        if groups not in (1, len(read)):
            raise LowRankError(
                f"layer {name!r} has {groups} groups of channels; filters can be pruned around "
                "convolutions with one group, or with one group for each channel"
            )
        self._join(self.reads, name, read)
        if groups != 1:  # depthwise: what it writes belongs to the channels that it reads
            written = np.repeat(read, outputs.shape[dim] // len(read))
        elif name in self.writes:  # a layer that runs again writes the same channels
            written = self.writes[name]
        else:
            written = self.labels.new(outputs.shape[dim])
        self.writes[name] = written
        shape = [1] * outputs.ndim
        shape[dim] = -1
        self.labels.give(outputs, torch.from_numpy(written).view(shape))

    def _join(self, table: dict[str, Channels], name: str, channels: Channels) -> None:
        """Note the channels that a layer reads; those of all its calls are united."""
        known = torch.from_numpy(table.setdefault(name, channels))
        self.labels.unite(known, torch.from_numpy(channels))

    def _channels(self, value: Tensor, dim: int, name: str) -> Channels:
        """Return the label of each channel along a dimension of a layer's input."""
        channels = self.labels.along(value, dim)
        if channels is None:
            raise LowRankError(
                f"filters cannot be pruned: {place_of(name)} mixes channels with pixels"
            )
        return channels

    def note_padding(
        self,
        module: nn.Module,
        name: str,
        padding: tuple[Channels, Channels],
        inputs: Tensor | None,
        outputs: Any,
    ) -> None:
        """Note that a module of another class pads channels as a shortcut does.

        Parameters
        ----------
        padding
            Labels of the zeros that it puts before and after.

        Raises
        ------
        LowRankError
            When a `PaddedShortcut` would not compute the same.
        """
        before, after = padding
        stride = _shortcut_stride(module, len(before), len(after), inputs, outputs)
        if stride is None:
            raise LowRankError(
                f"{place_of(name)} pads channels by itself, so they cannot be pruned; put the "
                "padding into a PaddedShortcut"
            )
        self.pads[name] = stride, before, after


def place_of(name: str) -> str:
    """Return the name of a module as errors show it; the network itself has none."""
    return repr(name) if name else "the network"


def _shortcut_stride(
    module: nn.Module, before: int, after: int, inputs: Tensor | None, outputs: Any
) -> int | None:
    """Return the stride of the `PaddedShortcut` that equals a module; None if there is none."""
    if inputs is None or list(module.children()) or module.state_dict():
        return None
    stride = -(-inputs.shape[-1] // outputs.shape[-1])
    again = PaddedShortcut(before, after, stride)(inputs)
    return stride if again.shape == outputs.shape and torch.equal(again, outputs) else None


def _arrays(entry: Any) -> list[Channels]:
    """Return the arrays of labels in an entry of a table."""
    parts = entry if isinstance(entry, tuple) else (entry,)
    return [part for part in parts if isinstance(part, np.ndarray)]
