"""Find the layers of a network that a target names, and put others in their places."""

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.layers import LAYERS
from lowrank_bench.layers.embedding import find_embedding
from lowrank_bench.layers.plain import refuse_unusual
from lowrank_bench.network.hooks import watching

KINDS: dict[type[nn.Module], str] = {nn.Conv2d: "conv", nn.Linear: "linear"}
TARGETS: dict[str, tuple[type[nn.Module], ...]] = {
    "conv": (nn.Conv2d, nn.Linear),
    "linear": (nn.Linear,),
}


@dataclass(frozen=True)
class Layer:
    """A layer that is to be compressed.

    Attributes
    ----------
    name
        Dotted name, the first one where a layer has several.
    kind
        `conv`, `linear` or `embedding`.
    shape
        Of the weight: f×c×k1×k2, out×in or n×d.
    positions
        Places at which one example's forward applies it: output pixels or tokens, over all calls.
    has_bias
        Whether it has a bias.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    positions: int
    has_bias: bool

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Return the shape of the weight as a matrix: f×(c·k1·k2), out×in or n×d."""
        return self.shape[0], prod(self.shape[1:])

    @property
    def parameters(self) -> int:
        """Return the numbers of weight and bias."""
        return prod(self.shape) + self.has_bias * self.shape[0]

    @property
    def macs(self) -> int:
        """Return the multiply-adds of one example; none for an embedding, which is looked up."""
        return 0 if self.kind == "embedding" else self.positions * prod(self.shape)


def find_layers(model: nn.Module, target: str, example: Mapping[str, Tensor]) -> tuple[Layer, ...]:
    """Return the layers of a target in the order of the network's modules, the embedding first.

    Parameters
    ----------
    model
        The network, which runs once on the example.
    target
        `conv`: every nn.Conv2d and nn.Linear; `linear`: every nn.Linear and the input embedding.
        Convolutions with groups and layers that do not run on the example, as heads that only
        training uses, are left out (`skipped_layers`).
    example
        Keyword arguments of a forward of one example.

    Raises
    ------
    LowRankError
        When the target is unknown, nothing is found, or a layer cannot be replaced without a loss:
        of an unusual class, with hooks, without values, compressed before, or sharing its weight.
    """
    found = _candidates(model, target)
    positions = _positions(model, found, example)
    found = {name: module for name, module in found.items() if positions[name]}
    if not found:
        raise LowRankError(
            f"nothing to compress in {type(model).__name__}; none of the layers of target "
            f"{target!r} runs on the example"
        )
    for name, module in found.items():
        if isinstance(module, nn.Embedding):
            refuse_unusual(model, name, module)
        else:
            _refuse_odd(name, module)
    _refuse_shared(model, found)
    return tuple(_describe(name, module, positions[name]) for name, module in found.items())


def _positions(
    model: nn.Module, found: Mapping[str, nn.Module], example: Mapping[str, Tensor]
) -> dict[str, int]:
    """Return at how many places the example's forward applies each layer; 0 where it does not."""
    positions = dict.fromkeys(found, 0)

    def counter(name: str, channels: int) -> Any:
        """Return what counts a layer's outputs."""

        def count(_: Tensor, output: Any) -> None:
            """Add the positions of one output."""
            whole = isinstance(output, Tensor)  # of odd layers, which are refused, who knows
            positions[name] += output.numel() // channels if whole else 1

        return count

    watchers = {name: counter(name, _width(module)) for name, module in found.items()}
    with torch.no_grad(), watching(model, watchers):
        model(**example)
    return positions


def skipped_layers(
    model: nn.Module, target: str, found: Collection[Layer] | None = None
) -> dict[str, str]:
    """Return the layers of the target that stay as they are, with the reason of each.

    Parameters
    ----------
    found
        What `find_layers` returns; None to leave out the layers that do not run.
    """
    kinds = TARGETS.get(target, ())
    skipped = {
        name: f"{module.groups} groups"
        for name, module in model.named_modules()
        if isinstance(module, kinds) and _grouped(module)
    }
    if found is not None:
        ran = {layer.name for layer in found}
        idle = [name for name in _candidates(model, target) if name not in ran]
        skipped |= dict.fromkeys(idle, "does not run on the example")
    return skipped


def replaced(model: nn.Module, new: Mapping[str, nn.Module]) -> nn.Module:
    """Return a copy of a network with the named layers replaced; the old ones are not copied."""
    memo = {id(model.get_submodule(name)): module for name, module in new.items()}
    return copy.deepcopy(model, memo).eval()


def _candidates(model: nn.Module, target: str) -> dict[str, nn.Module]:
    if target not in TARGETS:
        raise LowRankError(f"unknown target {target!r}; known: {', '.join(TARGETS)}")
    found: dict[str, nn.Module] = {}
    if target == "linear":
        name, embedding = find_embedding(model)
        _refuse_unready(name, embedding)
        found[name] = embedding
    compressed = tuple(LAYERS.values())
    for name, module in model.named_modules():
        if isinstance(module, compressed):
            raise LowRankError(
                f"layer {name!r} is already compressed; start from the dense network"
            )
        if isinstance(module, TARGETS[target]) and not _grouped(module):
            _refuse_unready(name, module)
            found[name] = module
    if not found:
        skipped = ", ".join(skipped_layers(model, target))
        why = f"all have groups: {skipped}" if skipped else "it has no such layers"
        raise LowRankError(f"nothing to compress in {type(model).__name__}; {why}")
    return found


def _grouped(module: nn.Module) -> bool:
    return getattr(module, "groups", 1) != 1


def _width(module: nn.Module) -> int:
    if isinstance(module, nn.Embedding):
        return module.embedding_dim
    return module.weight.shape[0]


def _describe(name: str, module: nn.Module, positions: int) -> Layer:
    kind = next((kind for cls, kind in KINDS.items() if isinstance(module, cls)), "embedding")
    has_bias = getattr(module, "bias", None) is not None
    return Layer(name, kind, tuple(module.weight.shape), positions, has_bias)


def _refuse_unready(name: str, module: nn.Module) -> None:
    """Check what must be right before the network can run."""
    if name == "":
        raise LowRankError(
            f"the network is a {type(module).__name__} itself; wrap it in a module first"
        )
    if isinstance(module, nn.modules.lazy.LazyModuleMixin):
        raise LowRankError(f"layer {name!r} has no shape yet; run the network once first")
    if module.weight.device.type == "meta":
        raise LowRankError(f"layer {name!r} has no values (device meta); load the weights first")


def _refuse_odd(name: str, module: nn.Module) -> None:
    """Check that replacing the layer loses nothing that it does beside its product."""
    kind, plain = type(module), next(cls for cls in KINDS if isinstance(module, cls))
    if kind.forward is not plain.forward:
        raise LowRankError(
            f"layer {name!r} is a {kind.__module__}.{kind.__name__}, which does more than a "
            f"{plain.__name__}; replace it by a plain one first"
        )
    if hasattr(module, "parametrizations"):
        raise LowRankError(
            f"layer {name!r} has a parametrization; make it plain with "
            "torch.nn.utils.parametrize.remove_parametrizations"
        )
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if any(getattr(module, attribute, None) for attribute in hooks):
        raise LowRankError(f"layer {name!r} has hooks, which would be lost; remove them")
    if not module.weight.isfinite().all():
        raise LowRankError(f"the weight of layer {name!r} holds NaN or infinite values; mend it")


def _refuse_shared(model: nn.Module, found: Mapping[str, nn.Module]) -> None:
    """Check that no other parameter of the network lies in the memory of a layer's own."""
    owners: dict[int, tuple[str, nn.Parameter]] = {}
    for name, module in model.named_modules():
        for own, parameter in module._parameters.items():
            if parameter is None or not parameter.numel() or parameter.device.type == "meta":
                continue
            full = f"{name}.{own}" if name else own
            other, _ = owners.setdefault(parameter.data_ptr(), (full, parameter))
            pair = {full.rpartition(".")[0], other.rpartition(".")[0]}
            if other != full and pair & found.keys():
                raise LowRankError(
                    f"{full!r} shares its memory with {other!r}; give one of them a copy of it "
                    "first, or the two would part"
                )
