"""Refuse layers that do more than their class says, or that share their weight with another."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.layers.sharing import overlapping

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def refuse_unusual(model: nn.Module, name: str, embedding: nn.Embedding) -> None:
    """Check that replacing `embedding` by a factorized look-up loses nothing.

    Raises
    ------
    LowRankError
        When its class scales or changes the rows, when something is attached to it
        (`refuse_attached`), when it has no values, or when another tensor of the network uses the
        memory of its table.
    """
    kind = type(embedding)
    refuse_attached(name, embedding)
    if kind.forward is not nn.Embedding.forward:
        raise LowRankError(
            f"layer {name!r} is a {kind.__module__}.{kind.__name__}, which does more than look "
            "rows up; replace it by a plain nn.Embedding first"
        )
    refuse_quantized(name, embedding.weight)
    if embedding.weight.device.type == "meta":
        raise LowRankError(f"layer {name!r} has no values (device meta); load the weights first")
    for group in overlapping(model):
        others = [other for owner, other in group if owner is not embedding]
        if len(others) < len(group) and others:
            raise LowRankError(
                f"layer {name!r} shares the memory of its table with {others[0]!r}{tied_by(model)};"
                " tied tables cannot be compressed yet"
            )


def refuse_attached(name: str, module: nn.Module) -> None:
    """Check that nothing is attached to the layer itself, which its replacement would not have.

    Raises
    ------
    LowRankError
        When the layer has a `forward` of its own, as libraries for offloading give it, a
        parametrization, or hooks.
    """
    if "forward" in vars(module):
        raise LowRankError(
            f"layer {name!r} has a forward of its own, as offloading sets it, which would be lost; "
            "undo it first, by accelerate.hooks.remove_hook_from_module or `del layer.forward`"
        )
    if hasattr(module, "parametrizations"):
        raise LowRankError(
            f"layer {name!r} has a parametrization; make it plain with "
            "torch.nn.utils.parametrize.remove_parametrizations"
        )
    # Hooks belong to the module object, and the replacement is another one.
    if any(getattr(module, attribute, None) for attribute in HOOKS):
        raise LowRankError(f"layer {name!r} has hooks, which would be lost; remove them")


def refuse_uncopied(model: nn.Module, copied: nn.Module) -> None:
    """Check that no module of a copy of a network runs code that calls the network itself.

    Copying takes methods along, but not what a plain function holds.

    Parameters
    ----------
    copied
        The copy; layers may have been replaced in it.

    Raises
    ------
    LowRankError
        When a module has a `forward` of its own that is the same object in both networks.
    """
    modules = dict(copied.named_modules())
    for name, module in model.named_modules():
        changed = vars(module).get("forward")
        if changed is not None and vars(modules.get(name, nn.Module())).get("forward") is changed:
            raise LowRankError(
                f"{f'module {name!r}' if name else 'the network'} has a function as its forward, "
                "which a copy would share with the dense network; set a method "
                "(types.MethodType), or undo it"
            )


def refuse_held(
    name: str, layer: nn.Module, memo: Mapping[int | str, Any], copied: bool = False
) -> None:
    """Check that nothing but its layer holds a weight, by what copying the network has met.

    Parameters
    ----------
    name, layer
        A layer of the network; replaced while the network was copied, so that copying did not
        pass through it, unless it was `copied` too.
    memo
        Of `copy.deepcopy`, afterwards: it has each object that was copied, and under `torch` each
        memory.

    Raises
    ------
    LowRankError
        When a parameter of the layer, or a view of it, was copied.
    """
    memories = memo.get("torch", {})
    for parameter in layer.parameters():
        seen = id(parameter) in memo and not copied  # parameters are copied without their memory
        if seen or parameter.untyped_storage()._cdata in memories:
            raise LowRankError(
                f"something besides layer {name!r} holds its weight, such as a list or a tensor "
                "that is no parameter, and would keep the dense one; take it out of the network "
                "first"
            )


def refuse_quantized(name: str, weight: Tensor) -> None:
    """Check that the weight of a layer is a plain tensor of real numbers.

    Raises
    ------
    LowRankError
        When it wraps other tensors, as libraries for quantization make them (torch's protocol
        `__tensor_flatten__`), or holds integers.
    """
    if hasattr(weight, "__tensor_flatten__") or not weight.is_floating_point():
        raise LowRankError(
            f"the weight of layer {name!r} is a {type(weight).__name__} of {weight.dtype}, not "
            "plain numbers; load the network without quantization first"
        )


def tied_by(model: nn.Module) -> str:
    """Return in brackets the setting that ties a network's tables; nothing where there is none."""
    config: Any = getattr(model, "config", None)
    tied = getattr(config, "tie_word_embeddings", False) is True
    return " (config.tie_word_embeddings)" if tied else ""
