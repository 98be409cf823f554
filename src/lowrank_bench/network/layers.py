"""Find the layers of a network that a target covers, and replace them in a copy."""

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.layers import LAYERS
from lowrank_bench.layers.embedding import find_embedding
from lowrank_bench.layers.plain import (
    refuse_attached,
    refuse_held,
    refuse_quantized,
    refuse_unusual,
    tied_by,
)
from lowrank_bench.layers.sharing import overlapping
from lowrank_bench.network.exclude import excluded
from lowrank_bench.network.hooks import Watcher, watching

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
        Dotted name; the first one if a layer has several.
    kind
        `conv`, `linear` or `embedding`.
    shape
        Of the weight: f×c×k1×k2, out×in or n×d.
    positions
        Output pixels or tokens of one example, summed over all calls in a forward.
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
        """Return the number of parameters of weight and bias."""
        return prod(self.shape) + self.has_bias * self.shape[0]

    @property
    def macs(self) -> int:
        """Return the multiply-adds of one example; 0 for an embedding, which is looked up."""
        return 0 if self.kind == "embedding" else self.positions * prod(self.shape)


def find_layers(
    model: nn.Module, target: str, example: Mapping[str, Tensor], exclude: Sequence[str] = ()
) -> tuple[Layer, ...]:
    """Return the layers of a target in the order of the network's modules, the embedding first.

    Parameters
    ----------
    model
        The network, which runs once on the example.
    target
        `conv`: every nn.Conv2d and nn.Linear; `linear`: every nn.Linear and the input embedding.
        Convolutions with groups are left out, and so are layers that do not run on the example,
        such as heads that only training uses (`skipped_layers`).
    example
        Keyword arguments of a forward of one example.
    exclude
        Names of layers, or of modules with all layers inside, that stay as they are
        (`network.exclude`).

    Raises
    ------
    LowRankError
        When the target is unknown, it has no layers, or one cannot be replaced faithfully: it is of
        an unusual class, has hooks or no values, was compressed before, or shares its weight; or
        when a name to exclude is that of no module.
    """
    modules = _candidates(model, target, excluded(model, exclude))
    # How often a layer is applied decides its multiply-adds; one forward tells.
    positions = _positions(model, modules, example)
    modules = {name: module for name, module in modules.items() if positions[name]}
    if not modules:
        raise LowRankError(
            f"nothing to compress in {type(model).__name__}; none of the layers of target "
            f"{target!r} runs on the example"
        )
    for name, module in modules.items():
        try:
            if isinstance(module, nn.Embedding):
                refuse_unusual(model, name, module)
            else:
                _refuse_odd(name, module)
        except LowRankError as error:
            raise LowRankError(f"{error}; or leave the layer out: exclude {name!r}") from None
    refuse_shared(model, modules.values())
    return tuple(_describe(name, module, positions[name]) for name, module in modules.items())


def _positions(
    model: nn.Module, modules: Mapping[str, nn.Module], example: Mapping[str, Tensor]
) -> dict[str, int]:
    """Return how many positions of the example each layer is applied to; 0 if it does not run."""
    positions = dict.fromkeys(modules, 0)

    def counter(name: str, channels: int) -> Watcher:
        """Return the watcher that counts a layer's outputs."""

        def count(_: Tensor, output: Any) -> None:
            """Add the positions of one output."""
            whole = isinstance(output, Tensor)  # layers that return other things are refused later
            positions[name] += output.numel() // channels if whole else 1

        return count

    watchers = {name: counter(name, _width(module)) for name, module in modules.items()}
    with torch.no_grad(), watching(model, watchers):
        model(**example)
    return positions


def skipped_layers(
    model: nn.Module,
    target: str,
    kept: Collection[Layer] | None = None,
    exclude: Sequence[str] = (),
) -> dict[str, str]:
    """Return the layers of the target that stay as they are, each with the reason.

    Parameters
    ----------
    kept
        What `find_layers` returns; None to leave out the layers that do not run.
    exclude
        As in `find_layers`.
    """
    kinds = TARGETS.get(target, ())
    skipped = {
        name: f"{module.groups} groups"
        for name, module in model.named_modules()
        if isinstance(module, kinds) and _grouped(module)
    }
    if kept is not None:
        ran = {layer.name for layer in kept}
        left = excluded(model, exclude)
        idle = [name for name in _candidates(model, target, left) if name not in ran]
        skipped |= dict.fromkeys(idle, "does not run on the example")
        skipped |= dict.fromkeys(sorted(left), "excluded")
    return skipped


def replaced(model: nn.Module, new: Mapping[str, nn.Module]) -> nn.Module:
    """Return a copy of a network with the named layers replaced; the old ones are not copied.

    Raises
    ------
    LowRankError
        When something else in the network holds the weight of one (`layers.plain.refuse_held`).
    """
    memo: dict[Any, Any] = {id(model.get_submodule(name)): new[name] for name in new}
    copied = copy.deepcopy(model, memo).eval()
    for name in new:
        refuse_held(name, model.get_submodule(name), memo)
    return copied


def _candidates(model: nn.Module, target: str, left: Collection[str] = ()) -> dict[str, nn.Module]:
    if target not in TARGETS:
        raise LowRankError(f"unknown target {target!r}; known: {', '.join(TARGETS)}")
    modules: dict[str, nn.Module] = {}
    tables = [name for name, part in model.named_modules() if isinstance(part, nn.Embedding)]
    if target == "linear" and not (tables and all(name in left for name in tables)):
        name, embedding = find_embedding(model)
        if name not in left:
            _refuse_unready(name, embedding)
            modules[name] = embedding
    # Compressed layers are refused even where the target would not take them.
    compressed = tuple(LAYERS.values())
    for name, module in model.named_modules():
        if name in left:
            continue
        if isinstance(module, compressed):
            raise LowRankError(
                f"layer {name!r} is already compressed; start from the dense network"
            )
        if isinstance(module, TARGETS[target]) and not _grouped(module):
            _refuse_unready(name, module)
            modules[name] = module
    if not modules:
        skipped = ", ".join(skipped_layers(model, target))
        why = f"all have groups: {skipped}" if skipped else "it has no such layers"
        why = "all its layers are excluded" if left else why
        raise LowRankError(f"nothing to compress in {type(model).__name__}; {why}")
    return modules


def _grouped(module: nn.Module) -> bool:
    return getattr(module, "groups", 1) != 1


def _width(module: nn.Module) -> int:
    if isinstance(module, nn.Embedding):
        return module.embedding_dim
    return len(weight_of(module))


def weight_of(module: nn.Module) -> Tensor:
    """Return the weight of a layer, which for a compressed one is the product of its factors."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def bias_of(module: nn.Module) -> Tensor | None:
    """Return the bias of a layer, or None."""
    bias = getattr(module, "bias", None)
    assert bias is None or isinstance(bias, Tensor)
    return bias


def _describe(name: str, module: nn.Module, positions: int) -> Layer:
    kind = next((kind for cls, kind in KINDS.items() if isinstance(module, cls)), "embedding")
    shape = tuple(weight_of(module).shape)
    return Layer(name, kind, shape, positions, bias_of(module) is not None)


def _refuse_unready(name: str, module: nn.Module) -> None:
    """Check the conditions for running the network."""
    if name == "":
        raise LowRankError(
            f"the network is a {type(module).__name__} itself; wrap it in a module first"
        )
    if isinstance(module, nn.modules.lazy.LazyModuleMixin):
        raise LowRankError(f"layer {name!r} has no shape yet; run the network once first")
    if weight_of(module).device.type == "meta":
        raise LowRankError(f"layer {name!r} has no values (device meta); load the weights first")


def _refuse_odd(name: str, module: nn.Module) -> None:
    """Check that the layer does nothing but its product: a replacement would lose the rest."""
    kind, plain = type(module), next(cls for cls in KINDS if isinstance(module, cls))
    refuse_attached(name, module)
    # A subclass that keeps the plain forward computes the same product.
    if kind.forward is not plain.forward:
        raise LowRankError(
            f"layer {name!r} is a {kind.__module__}.{kind.__name__}, which does more than a "
            f"{plain.__name__}; replace it by a plain one first"
        )
    refuse_quantized(name, weight_of(module))
    if not weight_of(module).isfinite().all():
        raise LowRankError(
            f"the weight of layer {name!r} holds NaN or infinite values; correct it first"
        )


def refuse_shared(model: nn.Module, layers: Collection[nn.Module]) -> None:
    """Check that layers share memory with no other tensor of their network.

    Raises
    ------
    LowRankError
        When one does. A copy of a network no longer shows it, where the tensors differ.
    """
    for group in overlapping(model):
        for owner, full in group:
            others = [other for _, other in group if other != full]
            if others and any(owner is layer for layer in layers):
                raise LowRankError(
                    f"{full!r} shares its memory with {others[0]!r}{tied_by(model)}; tied weights "
                    "cannot be compressed yet"
                )
