"""Run a network and look at what its layers get and give, without a trace left in it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lowrank_bench.device import evaluating

Watcher = Callable[[Tensor, Any], Tensor | None]


@contextmanager
def watching(model: nn.Module, watchers: Mapping[str, Watcher]) -> Iterator[None]:
    """Call watchers[name](input, output) whenever the layer `name` runs, in evaluation mode.

    What a watcher returns takes the place of the output, unless it is None. The training flags and
    the hooks are as before on leaving.
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
        """Give the watcher the first input and the output."""
        return watcher(args[0] if args else next(iter(kwargs.values())), output)

    return hook
