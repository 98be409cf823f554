"""The tensors of one code as part of a layer: integers as buffers, scales as parameters."""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from lowrank_bench.layers.base import plain_copy
from lowrank_bench.layers.code_tensors import (
    as_json,
    attribute_of,
    code_of,
    layout_of,
    register_tensors,
    types_on_disk,
)
from lowrank_bench.linalg.coding.coded import Coded


class CodeStore(nn.Module):
    """One coded matrix, decoded whenever it is asked for; nothing decoded is kept.

    Scales are parameters in the network's precision, which training may change. They are rounded
    to the type that the code stores whenever they are used or saved, as in `CodedEmbedding`.

    Parameters
    ----------
    tensors
        Name, type and shape of each tensor of the code.
    device, dtype
        Of the parameters, whose values are undefined until they are set or loaded.
    """

    def __init__(
        self,
        tensors: Mapping[str, Any],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.layout = register_tensors(self, tensors, device, dtype)

    @classmethod
    def of(cls, code: Coded, like: Tensor) -> Self:
        """Return a store with the values of a code, on the device of `like`, in its precision."""
        values = code.tensors()
        store = cls(layout_of(code), device="meta")
        for name, value in values.items():
            real = value.is_floating_point()
            copy = plain_copy(value, like.device, like.dtype if real else value.dtype)
            if real:
                value = nn.Parameter(copy, requires_grad=like.requires_grad)
                setattr(store, attribute_of(name), value)
            else:
                store.register_buffer(attribute_of(name), copy)
        return store

    def code(self) -> Coded:
        """Return the code with the current values."""
        values = {name: getattr(self, attribute_of(name)) for name in self.layout}
        return code_of(self.layout, values)

    def decoded(self) -> Tensor:
        """Return the matrix n×d in the precision of the network."""
        return self.code().dense().to(next(self.parameters()).dtype)

    def stored_types(self) -> dict[str, torch.dtype]:
        """Return the type on disk of each parameter, by its name here."""
        return types_on_disk(self.layout)

    def spec(self) -> dict[str, list[Any]]:
        """Return the layout as JSON values: the argument of `__init__`."""
        return as_json(self.layout)
