"""The tensors of one code as part of a layer: integers as buffers, scales as parameters."""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from lowrank_bench.layers.base import plain_copy
from lowrank_bench.layers.coded import Layout, rounded
from lowrank_bench.linalg.coding.coded import Coded
from lowrank_bench.linalg.factors import restore


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
        self.layout: Layout = {name: (kind, list(shape)) for name, (kind, shape) in tensors.items()}
        for name, (kind, shape) in self.layout.items():
            of_tensor = getattr(torch, kind)
            if of_tensor.is_floating_point:
                real = torch.empty(shape, device=device, dtype=dtype)
                self.register_parameter(_attribute(name), nn.Parameter(real))
            else:
                whole = torch.empty(shape, device=device, dtype=of_tensor)
                self.register_buffer(_attribute(name), whole)

    @classmethod
    def of(cls, code: Coded, like: Tensor) -> Self:
        """Return a store with the values of a code, on the device of `like`, in its precision."""
        values = code.tensors()
        store = cls(
            {
                name: (str(value.dtype).removeprefix("torch."), list(value.shape))
                for name, value in values.items()
            },
            device="meta",
        )
        for name, value in values.items():
            real = value.is_floating_point()
            copy = plain_copy(value, like.device, like.dtype if real else value.dtype)
            if real:
                value = nn.Parameter(copy, requires_grad=like.requires_grad)
                setattr(store, _attribute(name), value)
            else:
                store.register_buffer(_attribute(name), copy)
        return store

    def code(self) -> Coded:
        """Return the code with the current values."""
        values = {
            name: rounded(getattr(self, _attribute(name)), getattr(torch, kind))
            for name, (kind, _) in self.layout.items()
        }
        code = restore(values)
        assert isinstance(code, Coded)
        return code

    def decoded(self) -> Tensor:
        """Return the matrix n×d in the precision of the network."""
        return self.code().dense().to(next(self.parameters()).dtype)

    def stored_types(self) -> dict[str, torch.dtype]:
        """Return the type on disk of each parameter, by its name here."""
        kinds = {_attribute(name): getattr(torch, kind) for name, (kind, _) in self.layout.items()}
        return {name: kind for name, kind in kinds.items() if kind.is_floating_point}

    def spec(self) -> dict[str, list[Any]]:
        """Return the layout as JSON values: the argument of `__init__`."""
        return {name: [kind, list(shape)] for name, (kind, shape) in self.layout.items()}


def _attribute(name: str) -> str:
    """Return the name of a tensor as an attribute: no dots, and none of a module's own names."""
    return "code_" + name.replace(".", "__")
