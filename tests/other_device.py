"""A stand-in for a GPU on machines that have none: its tensors cannot be mixed with others.

They lie in ordinary memory, so every number is the same as on the CPU. What a GPU would refuse is
refused: operations on tensors of two devices, conversion to arrays, and random numbers from the
generator of another device.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

OTHER = torch.device("lazy")  # a device that torch knows only by name
aten = torch.ops.aten
INDEXING = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}


class There(Tensor):
    """A tensor on the other device."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> "There":
        """Wrap a CPU tensor."""
        return Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            inner.stride(),
            inner.storage_offset(),
            dtype=inner.dtype,
            device=OTHER,
        )

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None) -> Any:
        """Compute even where the mode is not active, as in the backward pass."""
        with OtherDevice():
            return func(*args, **(kwargs or {}))

    def __deepcopy__(self, memo: dict[int, Any]) -> "There":
        copied = There(self.inner.clone())
        if isinstance(self, nn.Parameter):
            copied = nn.Parameter(copied, requires_grad=self.requires_grad)
        return memo.setdefault(id(self), copied)

    def __repr__(self) -> str:
        return f"There({self.inner})"

    def untyped_storage(self) -> torch.UntypedStorage:
        """Return the underlying storage."""
        return self.inner.untyped_storage()

    def data_ptr(self) -> int:
        """Return the memory address."""
        return self.inner.data_ptr()

    def tolist(self) -> list:
        """Return the numbers; torch does not dispatch this to subclasses."""
        return self.cpu().tolist()


class OtherDevice(TorchDispatchMode):
    """A mode in which the other device computes."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        """Check the devices of the arguments, compute on the CPU, and wrap the result."""
        kwargs = dict(kwargs or {})
        there = _goes_there(func, args, kwargs)
        if there and kwargs.get("generator") is not None:
            raise RuntimeError(f"{func}: a generator of another device")
        if there and kwargs.get("device") is not None:
            kwargs["device"] = torch.device("cpu")
        found = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
        if not there:
            return found
        found = tree_map(lambda part: There(part) if isinstance(part, Tensor) else part, found)
        written = any(a.alias_info and a.alias_info.is_write for a in func._schema.arguments)
        return return_and_correct_aliasing(func, args, kwargs, found) if written else found


class Made(TorchFunctionMode):
    """Creates tensors on the other device from numbers and arrays; torch does not dispatch it."""

    def __torch_function__(self, func, types, args=(), kwargs=None) -> Any:
        """Create them on the CPU and move them."""
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


@contextmanager
def other_device() -> Iterator[None]:
    """Let the other device compute inside this context."""
    with Made(), OtherDevice():
        yield


def _inner(part: Any) -> Any:
    return part.inner if isinstance(part, There) else part


def _goes_there(func: Any, args: tuple, kwargs: dict[str, Any]) -> bool:
    """Return whether the result lies on the other device.

    Raises
    ------
    RuntimeError
        When the arguments lie on both. As on a GPU, CPU scalars and indices may be mixed in.
    """
    if func is aten.copy_.default:
        return isinstance(args[0], There)
    tensors = [part for part in tree_leaves((args, kwargs)) if isinstance(part, Tensor)]
    there = any(isinstance(part, There) for part in tensors)
    if there and func is not aten._to_copy.default:
        foreign = [part for part in tensors if part.ndim and not isinstance(part, There)]
        indices = func in INDEXING and isinstance(args[0], There)
        if any(part.is_floating_point() or not indices for part in foreign):
            raise RuntimeError(f"{func}: tensors of two devices")
    asked = kwargs.get("device")
    return there if asked is None else torch.device(asked).type == OTHER.type
