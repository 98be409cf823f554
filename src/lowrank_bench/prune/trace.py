"""Follow labelled channels through a forward of a network."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lowrank_bench.errors import LowRankError
from lowrank_bench.prune.channels import LAYERS, LayerChannels, place_of
from lowrank_bench.prune.functions import Call, pass_labels
from lowrank_bench.prune.labels import tensors_in
from lowrank_bench.prune.outputs import output_tensors


def trace_channels(
    model: nn.Module, example: Mapping[str, Tensor], held: Collection[str] = ()
) -> LayerChannels:
    """Run a network once and return the channels that its layers read and write.

    Where some layers do not run, such as heads that only training uses, the network is run once
    more as in training: the channels that these layers read are fixed, so that the layers can stay
    as they are. So are those that the modules named in `held` read and write.

    Raises
    ------
    LowRankError
        When a layer or a function may mix channels, or the network returns what cannot be seen.
    """
    tracer = _Tracer(model, held)
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad(), tracer.hooks(model), _usual_layout(model):
            tracer.run(model.eval(), example)
            tracer.fix_idle(model, example)
    finally:
        for module, training in modes.items():
            module.training = training
    return tracer.channels


@contextmanager
def _usual_layout(model: nn.Module) -> Iterator[None]:
    """Store all parameters in the usual memory format: others lead to views that hide channels."""
    others = {p: p.data for p in model.parameters() if not p.is_contiguous()}
    for parameter, data in others.items():
        parameter.data = data.contiguous()
    try:
        yield
    finally:
        for parameter, data in others.items():
            parameter.data = data


class _Tracer(TorchDispatchMode):
    """Labels what runs: layers as a whole, and each function of PyTorch's core between them."""

    def __init__(self, model: nn.Module, held: Collection[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.channels = LayerChannels()
        self.names = {module: name for name, module in model.named_modules()}
        self._held = {module for module, name in self.names.items() if name in held}
        self._stack: list[nn.Module] = []  # the modules that run now, the innermost last
        self._paused = False
        self._padded: dict[nn.Module, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: nothing is compiled here, and the compiler takes a second to import."""
        return False

    def run(self, model: nn.Module, example: Mapping[str, Tensor]) -> None:
        """Label all that one forward computes; its inputs and outputs are fixed."""
        labels, layout = self.channels.labels, torch.contiguous_format
        inputs = {k: v.detach().clone(memory_format=layout) for k, v in example.items()}
        for value in inputs.values():
            labels.give_fixed(value)
        with self:
            output = model(**inputs)
        tensors = output_tensors(output)
        if not tensors:
            raise LowRankError(
                f"{type(model).__name__} returns no tensors, so that its outputs could be pruned; "
                "let it return its scores as a tensor"
            )
        for value in tensors:
            labels.fix(labels.of(value))

    def fix_idle(self, model: nn.Module, example: Mapping[str, Tensor]) -> None:
        """Fix the channels of layers that have not run, as far as training runs them."""
        idle = {name for module, name in self.names.items() if isinstance(module, LAYERS)}
        idle -= {*self.channels.names(), *(self.names[module] for module in self._held)}
        if not idle:
            return
        # Modules with children choose what runs; layers themselves stay in evaluation mode.
        for module in model.modules():
            module.training = next(module.children(), None) is not None
        buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        try:
            with torch.random.fork_rng():
                self.run(model, example)
        except LowRankError:
            raise
        except Exception:  # training may need more inputs, such as targets: nothing is learnt then
            self._stack, self._paused = [], False
        finally:  # some modules update running averages in either mode
            for buffer, value in buffers:
                buffer.copy_(value)
        self.channels.fix(idle)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one function of PyTorch's core, and label its results."""
        out = func(*args, **(kwargs or {}))
        # The functions inside of a layer are not followed: the layer is labelled as a whole.
        whole = bool(self._stack) and isinstance(self._stack[-1], LAYERS)
        whole = whole or not self._held.isdisjoint(self._stack)
        if not self._paused and not whole:
            self._follow(func, args, kwargs or {}, out)
        return out

    def _follow(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        labels = self.channels.labels
        labelled = [value for value in tensors_in((args, kwargs)) if labels.has(value)]
        if not labelled:
            return
        results = [value for value in tensors_in(out) if value.is_floating_point()]
        place = place_of(self.names[self._stack[-1]] if self._stack else "")
        call = Call(func, args, kwargs, labelled, results, place)
        pass_labels(labels, call)
        if call.padding is not None:
            self._padded[self._stack[-1]] = call.padding

    @contextmanager
    def hooks(self, model: nn.Module) -> Iterator[None]:
        """Keep track of the modules that run, and of what goes into and out of each layer."""
        handles = []
        for module, name in self.names.items():
            if isinstance(module, torch.jit.ScriptModule):
                raise LowRankError(
                    f"filters cannot be pruned around {name!r}, which is compiled by torch.jit; "
                    "build the network from plain modules"
                )
        for module in self.names:
            handles.append(module.register_forward_pre_hook(self._enter))
            handles.append(module.register_forward_hook(self._leave, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, _: Any) -> None:
        self._stack.append(module)

    def _leave(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> None:
        self._paused = True  # the arithmetic on labels is not a part of the network
        name, inputs = self.names[module], next(tensors_in((args, kwargs)), None)
        if module in self._held:
            self._fix_around((args, kwargs), out)
        elif not self._held.isdisjoint(self._stack):
            pass  # the held module around it is labelled when it ends
        elif module in self._padded:
            self.channels.note_padding(module, name, self._padded.pop(module), inputs, out)
        elif isinstance(module, LAYERS) and inputs is not None:
            self.channels.pass_through(module, name, inputs, out)
        self._paused = False
        self._stack.pop()

    def _fix_around(self, inputs: Any, outputs: Any) -> None:
        """Fix the channels that a module reads and writes, whatever it does with them."""
        labels = self.channels.labels
        for value in tensors_in(inputs):
            if labels.has(value):
                labels.fix(labels.of(value))
        for value in tensors_in(outputs):
            labels.give_fixed(value)
