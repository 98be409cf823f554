"""An embedding stored as a code: integers of few bits, with scales in half precision."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from lowrank_bench.layers.base import CompressedEmbedding
from lowrank_bench.linalg.coding.coded import Coded
from lowrank_bench.linalg.factors import restore

Layout = dict[str, tuple[str, list[int]]]  # type and shape of each tensor, by name


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
        self.layout = {name: (kind, list(shape)) for name, (kind, shape) in tensors.items()}
        for name, (kind, shape) in self.layout.items():
            of_tensor = getattr(torch, kind)
            if of_tensor.is_floating_point:
                empty = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
                self.register_parameter(_attribute(name), empty)
            else:
                value = torch.empty(shape, device=device, dtype=of_tensor)
                self.register_buffer(_attribute(name), value)
        self._attributes = {name: _attribute(name) for name in self.layout}
        self._kept: tuple[dict[str, tuple[Tensor, int]], Coded] | None = None

    @classmethod
    def empty(cls, factors: Coded, **options: Any) -> Self:
        """Return a layer that fits the code, on the meta device, with `options` of `__init__`."""
        layout: Layout = {
            name: (str(value.dtype).removeprefix("torch."), list(value.shape))
            for name, value in factors.tensors().items()
        }
        return cls(*factors.shape, layout, device="meta", **options)

    def set_value(self, name: str, value: Tensor) -> None:
        """Store one tensor of the code under the name that it has there."""
        super().set_value(_attribute(name), value)

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
        code = self._restored(values)
        return code if self._kept is None else code.adopt(self._kept[1].derive())

    def _without_gradients(self, values: dict[str, Tensor]) -> Coded:
        """Return the code that is kept, or a new one if a tensor has changed."""
        if self._kept is not None and _unchanged(self._kept[0], values):
            return self._kept[1]
        with torch.no_grad():
            code = self._restored(values)
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

    def _restored(self, values: dict[str, Tensor]) -> Coded:
        kinds = {name: getattr(torch, kind) for name, (kind, _) in self.layout.items()}
        code = restore({name: rounded(value, kinds[name]) for name, value in values.items()})
        assert isinstance(code, Coded)
        return code

    @property
    def _precision(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def stored_types(self) -> dict[str, torch.dtype]:
        """Return the type on disk of each parameter, by its name in the layer."""
        return {
            _attribute(name): getattr(torch, kind)
            for name, (kind, _) in self.layout.items()
            if getattr(torch, kind).is_floating_point
        }

    def spec(self) -> dict[str, Any]:
        """Return the arguments of `__init__` that build this layer empty, as JSON values."""
        tensors = {name: [kind, shape] for name, (kind, shape) in self.layout.items()}
        return {**self.common_spec(), "tensors": tensors}

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


def _attribute(name: str) -> str:
    """Return the name of a tensor as an attribute: no dots, and none of a module's own names."""
    return "code_" + name.replace(".", "__")
