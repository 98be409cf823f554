"""An embedding stored as a code: integers of few bits, with scales in half precision."""

from typing import Any, Self

import torch
from torch import Tensor

from lowrank_bench.layers.base import CompressedEmbedding
from lowrank_bench.layers.code_tensors import (
    Layout,
    as_json,
    attribute_of,
    code_of,
    layout_of,
    register_tensors,
    types_on_disk,
)
from lowrank_bench.linalg.coding.coded import Coded


class CodedEmbedding(CompressedEmbedding[Coded]):
    """An embedding whose rows are decoded when they are looked up.

    Integers are buffers. Scales, bases and codebooks are parameters in the network's precision,
    which training may change. They are rounded to the type that the code stores, such as float16,
    whenever they are used or saved: a saved layer computes what it did before. Gradients pass the
    rounding as if it were not there.

    Parameters
    ----------
    num_embeddings, embedding_dim
        n and d.
    tensors
        Name, type and shape of each tensor of the code.
    padding_idx
        Index that contributes no gradient; a negative one counts from the end.
    sparse
        Not honoured: gradients of scales are dense.
    device, dtype
        Of the parameters, whose values are undefined until they are set or loaded.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        tensors: Layout,
        padding_idx: int | None = None,
        sparse: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx)
        self.layout = register_tensors(self, tensors, device, dtype)
        self._attributes = {name: attribute_of(name) for name in self.layout}
        self._kept: tuple[dict[str, tuple[Tensor, int]], Coded] | None = None

    @classmethod
    def empty(cls, factors: Coded, **options: Any) -> Self:
        """Return a layer that fits the code, on the meta device, with `options` of `__init__`."""
        return cls(*factors.shape, layout_of(factors), device="meta", **options)

    def set_value(self, name: str, value: Tensor) -> None:
        """Store one tensor of the code under the name that it has there."""
        super().set_value(attribute_of(name), value)

    def look_up(self, indices: Tensor) -> Tensor:
        """Return the rows of the table at `indices`, shape of `indices` × d."""
        rows = self.approximation().rows(indices.reshape(-1))
        return rows.to(self._precision).reshape(*indices.shape, self.embedding_dim)

    def approximation(self) -> Coded:
        """Return the code with the current values.

        What it derives from its tensors is kept until one of them is replaced or written to; while
        gradients are on, what it derives from the integers.
        """
        values = self._values()
        if not (torch.is_grad_enabled() and any(v.requires_grad for v in values.values())):
            return self._without_gradients(values)
        whole = {name: value for name, value in values.items() if not value.is_floating_point()}
        if self._kept is None or not _unchanged(self._kept[0], whole):
            self._without_gradients(
                {name: value.detach() for name, value in values.items()} | whole
            )
        code = code_of(self.layout, values)
        return code if self._kept is None else code.adopt(self._kept[1].derive())

    def _without_gradients(self, values: dict[str, Tensor]) -> Coded:
        """Return the code that is kept, or a new one if a tensor has changed."""
        if self._kept is not None and _unchanged(self._kept[0], values):
            return self._kept[1]
        with torch.no_grad():
            code = code_of(self.layout, values)
        whole = {name: value for name, value in values.items() if not value.is_floating_point()}
        if self._kept is not None and _unchanged(self._kept[0], whole):
            code.adopt(self._kept[1])
        # Tensors of `inference_mode` do not tell whether they were written to.
        known = {} if any(value.is_inference() for value in values.values()) else values
        state = {name: (value, value._version) for name, value in known.items()}
        self._kept = (state, code) if state else None
        return code

    def _values(self) -> dict[str, Tensor]:
        """Return the tensors of the code by name."""
        # Not `getattr`: ten look-ups through a module take longer than to find a row.
        places = {**self._buffers, **self._parameters}
        return {
            name: getattr(self, attribute) if (value := places.get(attribute)) is None else value
            for name, attribute in self._attributes.items()
        }

    @property
    def _precision(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def stored_types(self) -> dict[str, torch.dtype]:
        """Return the type on disk of each parameter, by its name in the layer."""
        return types_on_disk(self.layout)

    def spec(self) -> dict[str, Any]:
        """Return the arguments of `__init__` that build this layer empty, as JSON values."""
        return {**self.common_spec(), "tensors": as_json(self.layout)}

    def extra_repr(self) -> str:
        """Return the size shown by `print`."""
        return f"{self.num_embeddings}, {self.embedding_dim}, bytes={self.approximation().n_bytes}"


def _unchanged(state: dict[str, tuple[Tensor, int]], values: dict[str, Tensor]) -> bool:
    """Return whether these are the tensors of a state, and were not written to since."""
    for name, value in values.items():
        old, version = state[name]
        if old is not value or value._version != version:
            return False
    return True
