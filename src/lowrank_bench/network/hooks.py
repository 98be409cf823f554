"""Run a network and observe the inputs and outputs of its layers, without changing it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lowrank_bench.device import evaluating

Watcher = Callable[[Tensor, Any], Tensor | None]


@contextmanager
def watching(model: nn.Module, watchers: Mapping[str, Watcher]) -> Iterator[None]:
    """Call watchers[name](input, output) whenever the layer `name` runs, in evaluation mode.

    What a watcher returns replaces the output, unless it is None. On leaving, training flags and
    hooks are as before.
    """
    handles = [
        model.get_submodule(name).register_forward_hook(_adapt(watcher), with_kwargs=True)
        for name, watcher in watchers.items()
    ]
    try:
        with evaluating(model):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _adapt(watcher: Watcher) -> Callable[..., Tensor | None]:
    def hook(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Tensor | None:
        """Call the watcher with the first input and the output."""
        return watcher(args[0] if args else next(iter(kwargs.values())), output)

    return hook
