"""Remove channels from plain layers, in place, and record which layers have lost some."""

from collections.abc import Sequence

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lowrank_bench.errors import LowRankError
from lowrank_bench.layers.shortcut import PaddedShortcut

MARK = "dense_sizes"
# The attributes of each kind of layer that slicing changes, inputs first.
SIZES: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Conv2d: ("in_channels", "out_channels", "groups"),
    nn.Linear: ("in_features", "out_features"),
    _BatchNorm: ("num_features",),
    PaddedShortcut: ("before", "after", "stride"),
}


class Resized(BaseModel):
    """A plain layer that has fewer channels than the network's class gives it.

    Attributes
    ----------
    name
        Its dotted name.
    dense, sizes
        `sizes_of` the layer before channels were removed, and as it is.
    """

    name: str
    dense: tuple[int, ...]
    sizes: tuple[int, ...]


def sizes_of(layer: nn.Module) -> tuple[int, ...]:
    """Return the sizes of a layer that slicing changes, inputs first; none for other layers."""
    return tuple(getattr(layer, name) for name in _size_names(layer))


def dense_sizes(layer: nn.Module) -> tuple[int, ...]:
    """Return the sizes that a layer had before it lost channels."""
    sizes: tuple[int, ...] = getattr(layer, MARK, sizes_of(layer))
    return sizes


def slice_layer(layer: nn.Module, inputs: Tensor, outputs: Tensor) -> None:
    """Keep only some input and output channels of a layer, in place.

    Parameters
    ----------
    layer
        A convolution (without groups, or depthwise), a linear layer or a batch normalisation.
    inputs, outputs
        Indices of the channels to keep, int64. The tensors of a batch normalisation and of a
        depthwise convolution depend on `outputs` alone.
    """
    dense = dense_sizes(layer)
    for name, value in (*layer._parameters.items(), *layer._buffers.items()):
        if value is None or value.ndim == 0:
            continue
        kept = value.detach().index_select(0, outputs)
        if value.ndim > 1 and value.shape[1] == sizes_of(layer)[0]:
            kept = kept.index_select(1, inputs)
        _put(layer, name, kept)
    _set_sizes(layer, _sizes_with(layer, len(inputs), len(outputs)))
    setattr(layer, MARK, dense)


def find_resized(model: nn.Module) -> list[Resized]:
    """Return the layers of a network that are smaller than its class builds them."""
    return [
        Resized(name=name, dense=getattr(module, MARK), sizes=sizes_of(module))
        for name, module in model.named_modules()
        if hasattr(module, MARK)
    ]


def replace_shortcut(
    model: nn.Module, name: str, shortcut: PaddedShortcut, dense: tuple[int, ...]
) -> None:
    """Put a shortcut in the place of the layer `name`, and mark it as resized.

    Parameters
    ----------
    dense
        Sizes of the dense shortcut; () for a module of another class that pads channels.
    """
    setattr(shortcut, MARK, dense)
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, shortcut)


def resize(model: nn.Module, entries: Sequence[Resized]) -> None:
    """Give layers of a dense network the sizes that they were saved with, in place.

    The layers keep the first of their dense values, as placeholders until values are loaded.

    Raises
    ------
    LowRankError
        When the network has no such layer, or a layer of another size.
    """
    for entry in entries:
        try:
            layer = model.get_submodule(entry.name)
        except AttributeError as error:
            raise LowRankError(f"the given network does not fit the saved one: {error}") from None
        if entry.dense:
            _resize_layer(layer, entry)
        else:  # the dense network has a module of another class here, which pruning replaced
            replace_shortcut(model, entry.name, PaddedShortcut(*entry.sizes), ())


def _resize_layer(layer: nn.Module, entry: Resized) -> None:
    if sizes_of(layer) != entry.dense or len(entry.sizes) != len(entry.dense):
        raise LowRankError(
            f"the given network does not fit the saved one: {entry.name!r} has sizes "
            f"{sizes_of(layer)}, not {entry.dense}; give the dense network that was pruned"
        )
    least = 0 if isinstance(layer, PaddedShortcut) else 1
    pairs = zip(entry.sizes, entry.dense, strict=True)
    if not all(least <= size <= dense for size, dense in pairs):
        raise LowRankError(
            f"{entry.name!r} cannot have sizes {entry.sizes} where the dense network has "
            f"{entry.dense}; the files are damaged, save the network again"
        )
    if isinstance(layer, PaddedShortcut):  # it has no tensors to slice
        _set_sizes(layer, entry.sizes)
        setattr(layer, MARK, entry.dense)
        return
    inputs, outputs = entry.sizes[0], entry.sizes[min(1, len(entry.sizes) - 1)]
    device = next((value.device for value in layer.state_dict().values()), None)
    slice_layer(layer, *(torch.arange(size, device=device) for size in (inputs, outputs)))


def _put(layer: nn.Module, name: str, value: Tensor) -> None:
    old = layer._parameters.get(name)
    value = value.contiguous()
    if old is None:
        layer._buffers[name] = value
    else:
        layer._parameters[name] = nn.Parameter(value, requires_grad=old.requires_grad)


def _size_names(layer: nn.Module) -> tuple[str, ...]:
    return next((names for kind, names in SIZES.items() if isinstance(layer, kind)), ())


def _sizes_with(layer: nn.Module, inputs: int, outputs: int) -> tuple[int, ...]:
    """Return the sizes of `layer` with other numbers of channels."""
    if isinstance(layer, nn.Conv2d):
        return inputs, outputs, 1 if layer.groups == 1 else inputs
    return (inputs, outputs) if isinstance(layer, nn.Linear) else (outputs,)


def _set_sizes(layer: nn.Module, sizes: tuple[int, ...]) -> None:
    for name, size in zip(_size_names(layer), sizes, strict=True):
        setattr(layer, name, size)
