"""The tensors of one code as parts of a module: integers as buffers, scales as parameters."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_bench.linalg.coding.coded import Coded
from lowrank_bench.linalg.factors import restore

Layout = dict[str, tuple[str, list[int]]]  # type and shape of each tensor, by name


def layout_of(code: Coded) -> Layout:
    """Return the type and the shape of each tensor of a code."""
    return {
        name: (str(value.dtype).removeprefix("torch."), list(value.shape))
        for name, value in code.tensors().items()
    }


def register_tensors(
    module: nn.Module,
    tensors: Mapping[str, Any],
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> Layout:
    """Give a module the tensors of a layout, with undefined values, and return the layout."""
    layout: Layout = {name: (kind, list(shape)) for name, (kind, shape) in tensors.items()}
    for name, (kind, shape) in layout.items():
        of_tensor = getattr(torch, kind)
        if of_tensor.is_floating_point:
            real = torch.empty(shape, device=device, dtype=dtype)
            module.register_parameter(attribute_of(name), nn.Parameter(real))
        else:
            whole = torch.empty(shape, device=device, dtype=of_tensor)
            module.register_buffer(attribute_of(name), whole)
    return layout


def attribute_of(name: str) -> str:
    """Return the name of a tensor as an attribute: no dots, and none of a module's own names."""
    return "code_" + name.replace(".", "__")


def types_on_disk(layout: Layout) -> dict[str, torch.dtype]:
    """Return the type on disk of each parameter, by its name in the module."""
    kinds = {attribute_of(name): getattr(torch, kind) for name, (kind, _) in layout.items()}
    return {name: kind for name, kind in kinds.items() if kind.is_floating_point}


def as_json(layout: Layout) -> dict[str, list[Any]]:
    """Return a layout as JSON values."""
    return {name: [kind, list(shape)] for name, (kind, shape) in layout.items()}


def code_of(layout: Layout, values: Mapping[str, Tensor]) -> Coded:
    """Return the code of these tensors, real numbers rounded to the types of the layout."""
    kinds = {name: getattr(torch, kind) for name, (kind, _) in layout.items()}
    code = restore({name: rounded(value, kinds[name]) for name, value in values.items()})
    assert isinstance(code, Coded)
    return code


def rounded(value: Tensor, kind: torch.dtype) -> Tensor:
    """Return a tensor with the values that `kind` can hold, in its own type.

    Its gradient is that of the tensor itself.
    """
    if not value.is_floating_point() or value.dtype == kind:
        return value
    near = value.detach().to(kind).to(value.dtype)
    if torch.is_grad_enabled() and value.requires_grad:
        return value + (near - value.detach())
    return near
