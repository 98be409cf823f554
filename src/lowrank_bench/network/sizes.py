"""What the parts of a network take on disk, before anything is compressed."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from lowrank_bench.layers.rest import halvable, halve
from lowrank_bench.layers.sharing import sharing_of, state_of
from lowrank_bench.layers.stored import stored_bytes, stored_types
from lowrank_bench.network.exclude import excluded
from lowrank_bench.problem import FLOAT_BYTES


@dataclass(frozen=True)
class Sizes:
    """Bytes of a dense network.

    Attributes
    ----------
    whole
        Of all its tensors, with real numbers in float32.
    outside
        Of all that is not in the targeted layers, as it will be stored.
    number
        Of a real number in each targeted layer, by name.
    bias
        Of a number of its bias, by the name of the layer.
    """

    whole: int
    outside: int
    number: Mapping[str, int]
    bias: Mapping[str, int]


def sizes_of(
    model: nn.Module, layers: Collection[str], rest: str, exclude: Sequence[str] = ()
) -> Sizes:
    """Return the bytes of a network of which some layers are to be compressed.

    Parameters
    ----------
    layers
        Dotted names of the layers.
    rest
        `as_is`, or `fp16`: biases and what is outside of the layers are stored in half precision.
    exclude
        What users left out (`network.exclude`), which stays as it is.
    """
    state = state_of(model)
    shared, types = sharing_of(state).shared, stored_types(model)
    sizes = {name: types.get(name, value.dtype).itemsize for name, value in state.items()}
    if rest == "fp16":
        sizes |= dict.fromkeys(halvable(model, _rest(model, state, layers, exclude)), 2)
    inside = {name for name in state if _in_layers(name, layers)}
    return Sizes(
        stored_bytes(model, FLOAT_BYTES),
        sum(state[name].numel() * sizes[name] for name in state if name not in {*shared, *inside}),
        {layer: sizes[f"{layer}.weight"] for layer in layers},
        {
            layer: sizes.get(f"{layer}.bias", _new(rest, sizes[f"{layer}.weight"]))
            for layer in layers
        },
    )


def halve_rest(model: nn.Module, layers: Collection[str], exclude: Sequence[str] = ()) -> None:
    """Store biases, and all that is not in some layers, in half precision where it can hold them.

    Parameters
    ----------
    model
        The compressed network, which is changed.
    layers
        Dotted names of the layers that were to be compressed.
    exclude
        What users left out.
    """
    halve(model, halvable(model, _rest(model, state_of(model), layers, exclude)))


def _rest(
    model: nn.Module, state: Collection[str], layers: Collection[str], exclude: Sequence[str]
) -> list[str]:
    """Return the names of the biases of some layers and of all that is not in these layers."""
    biases = {f"{layer}.{local}" for layer in layers for local in ("bias", "decoder.bias")}
    left = excluded(model, exclude)
    outside = (name for name in state if not _in_layers(name, left))
    return [name for name in outside if name in biases or not _in_layers(name, layers)]


def _in_layers(name: str, layers: Collection[str]) -> bool:
    path = name
    while path:
        path = path.rpartition(".")[0]
        if path in layers:
            return True
    return False


def _new(rest: str, number: int) -> int:
    """Return the bytes of a number of a bias that the dense layer lacks."""
    return 2 if rest == "fp16" and number == FLOAT_BYTES else number
