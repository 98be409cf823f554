"""What the layers of a network read in a forward, to find where two networks part."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class Reads:
    """The inputs of layers, in the order in which they run.

    Parameters
    ----------
    model
        The network.
    units
        The unit of each input channel of the layers to watch, by their names.
    """

    def __init__(self, model: nn.Module, units: Mapping[str, NDArray[np.int64]]) -> None:
        self.model, self.units = model, units
        self.calls: list[tuple[str, Tensor]] = []
        self._running: list[str] = []

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Note what is read in a forward."""
        handles = []
        for name, module in self.model.named_modules():
            enter = partial(self._enter, name)
            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(module.register_forward_hook(self._leave))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def innermost(self) -> str:
        """Return the module that was running when an error stopped the forward, in words."""
        name = self._running[-1] if self._running else ""
        return repr(name) if name else "its forward"

    def first_difference(
        self, sliced: "Reads", mask: NDArray[np.bool_], close: Callable[[Tensor, Tensor], bool]
    ) -> str:
        """Return in words what is the first to differ in a sliced copy of this network.

        Parameters
        ----------
        sliced
            What the layers of the copy read.
        mask
            Whether each unit stays.
        close
            Whether two tensors agree.
        """
        for (name, expected), (other, value) in zip(self.calls, sliced.calls, strict=False):
            # Images may come without a batch.
            dim = -3 if isinstance(self.model.get_submodule(name), nn.Conv2d) else -1
            kept = torch.from_numpy(np.flatnonzero(mask[self.units[name]])).to(expected.device)
            if name != other or not close(expected.index_select(dim, kept), value):
                return f"what layer {name!r} reads"
        return "what follows its last layers"

    def _enter(self, name: str, _: nn.Module, args: Any, kwargs: Any) -> None:
        self._running.append(name)
        values = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if name in self.units and values:
            self.calls.append((name, values[0].detach().clone()))

    def _leave(self, *_: Any) -> None:
        self._running.pop()
