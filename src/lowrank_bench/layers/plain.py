"""Refuse embeddings that do more than look rows up, or share their table with another layer."""

from torch import Tensor, nn

from lowrank_bench.errors import LowRankError


def refuse_unusual(model: nn.Module, name: str, embedding: nn.Embedding) -> None:
    """Check that replacing `embedding` by a factorized look-up loses nothing.

    Raises
    ------
    LowRankError
        When its class scales or changes the rows, when it has hooks or no values, or when another
        parameter of the network uses the same memory.
    """
    kind = type(embedding)
    if kind.forward is not nn.Embedding.forward:
        raise LowRankError(
            f"layer {name!r} is a {kind.__module__}.{kind.__name__}, which does more than look "
            "rows up; replace it by a plain nn.Embedding first"
        )
    if embedding._forward_hooks or embedding._forward_pre_hooks:
        raise LowRankError(f"layer {name!r} has forward hooks, which would be lost; remove them")
    refuse_quantized(name, embedding.weight)
    table = embedding.weight
    if table.device.type == "meta":
        raise LowRankError(f"layer {name!r} has no values (device meta); load the weights first")
    for other, parameter in model.named_parameters():
        if parameter is not table and parameter.data_ptr() == table.data_ptr() and table.numel():
            raise LowRankError(
                f"layer {name!r} shares the memory of its table with {other!r}; give {other!r} a "
                "copy of its own first, because compression would untie them"
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
