"""Give plain layers fewer channels, in place, and say which layers have them."""

from collections.abc import Sequence

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lowrank_bench.errors import LowRankError
from lowrank_bench.layers.shortcut import PaddedShortcut

MARK = "dense_sizes"


class Resized(BaseModel):
    """A plain layer that has fewer channels than the network's class gives it.

    Attributes
    ----------
    name
        Its dotted name.
    dense, sizes
        What `sizes_of` says of the layer that it was, and of the layer that it is.
    """

    name: str
    dense: tuple[int, ...]
    sizes: tuple[int, ...]


def sizes_of(layer: nn.Module) -> tuple[int, ...]:
    """Return the sizes of a layer that slicing changes, inputs first; none for other layers."""
    if isinstance(layer, nn.Conv2d):
        return layer.in_channels, layer.out_channels, layer.groups
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if isinstance(layer, _BatchNorm):
        return (layer.num_features,)
    if isinstance(layer, PaddedShortcut):
        return layer.before, layer.after, layer.stride
    return ()


def slice_layer(layer: nn.Module, inputs: Tensor, outputs: Tensor) -> None:
    """Keep the given input and output channels of a layer, in place.

    Parameters
    ----------
    layer
        A convolution (without groups, or depthwise), a linear layer or a batch normalisation.
    inputs, outputs
        Indices of the channels to keep, int64; a batch normalisation and a depthwise convolution
        look at `outputs` alone for their tensors.
    """
    dense = getattr(layer, MARK, sizes_of(layer))
    for own, value in (*layer._parameters.items(), *layer._buffers.items()):
        if value is None or value.ndim == 0:
            continue
        kept = value.detach().index_select(0, outputs)
        if value.ndim > 1 and value.shape[1] == sizes_of(layer)[0]:
            kept = kept.index_select(1, inputs)
        _put(layer, own, kept)
    _set_sizes(layer, _fitting(layer, len(inputs), len(outputs)))
    setattr(layer, MARK, dense)


def find_resized(model: nn.Module) -> list[Resized]:
    """Return the layers of a network that are smaller than its class builds them."""
    return [
        Resized(name=name, dense=getattr(module, MARK), sizes=sizes_of(module))
        for name, module in model.named_modules()
        if hasattr(module, MARK)
    ]


def resize(model: nn.Module, entries: Sequence[Resized]) -> None:
    """Give layers of a dense network the sizes that they were saved with, in place.

    The values are the first of the dense ones and mean nothing until they are loaded.

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
        if not entry.dense:  # a shortcut that was written by hand
            parent, _, own = entry.name.rpartition(".")
            shortcut = PaddedShortcut(*entry.sizes)
            setattr(shortcut, MARK, ())
            setattr(model.get_submodule(parent), own, shortcut)
            continue
        if sizes_of(layer) != entry.dense or len(entry.sizes) != len(entry.dense):
            raise LowRankError(
                f"the given network does not fit the saved one: {entry.name!r} has sizes "
                f"{sizes_of(layer)}, not {entry.dense}; give the dense network that was pruned"
            )
        least = 0 if isinstance(layer, PaddedShortcut) else 1
        if not all(
            least <= own <= full for own, full in zip(entry.sizes, entry.dense, strict=True)
        ):
            raise LowRankError(
                f"{entry.name!r} cannot have sizes {entry.sizes} where the dense network has "
                f"{entry.dense}; the files are damaged, save the network again"
            )
        if isinstance(layer, PaddedShortcut):
            _set_sizes(layer, entry.sizes)
            setattr(layer, MARK, entry.dense)
            continue
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


def _fitting(layer: nn.Module, inputs: int, outputs: int) -> tuple[int, ...]:
    """Return the sizes of `layer` with other numbers of channels."""
    if isinstance(layer, nn.Conv2d):
        return inputs, outputs, 1 if layer.groups == 1 else inputs
    return (inputs, outputs) if isinstance(layer, nn.Linear) else (outputs,)


def _set_sizes(layer: nn.Module, sizes: tuple[int, ...]) -> None:
    if isinstance(layer, nn.Conv2d):
        layer.in_channels, layer.out_channels, layer.groups = sizes
    elif isinstance(layer, nn.Linear):
        layer.in_features, layer.out_features = sizes
    elif isinstance(layer, PaddedShortcut):
        layer.before, layer.after, layer.stride = sizes
    else:
        (layer.num_features,) = sizes
