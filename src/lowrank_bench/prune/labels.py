"""Follow labelled channels through one forward of a network."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

from lowrank_bench.errors import LowRankError
from lowrank_bench.layers.shortcut import PaddedShortcut

FIXED = 0  # the label of channels that cannot be pruned

# Functions of PyTorch's core, by how labels go through them; in-place forms end in "_".
_WORDS = {
    "each number": "relu hardtanh clamp clamp_min clamp_max silu gelu sigmoid tanh hardswish "
    "hardsigmoid elu mish leaky_relu threshold softplus add sub mul div clone detach alias "
    "_to_copy native_dropout dropout neg abs square sqrt pow exp lift_fresh contiguous",
    "moved": "view _unsafe_view reshape _reshape_alias permute transpose t slice select squeeze "
    "unsqueeze expand flatten cat split split_with_sizes unbind movedim stack",
    "pooled": "max_pool2d max_pool2d_with_indices mkldnn_max_pool2d avg_pool2d "
    "_adaptive_avg_pool2d adaptive_avg_pool2d mkldnn_adaptive_avg_pool2d adaptive_max_pool2d "
    "upsample_nearest2d upsample_bilinear2d",
    "averaged": "mean sum amax",
    "padded": "constant_pad_nd",
    "kept whole": "_softmax _log_softmax",  # as networks end, whose outputs cannot be pruned
}
KINDS = {name: kind for kind, names in _WORDS.items() for name in names.split()}
LEAVES = (nn.Conv2d, nn.Linear, _BatchNorm, PaddedShortcut)


@contextmanager
def _in_rows(model: nn.Module) -> Iterator[None]:
    """Keep all parameters in the usual memory format: others make views that hide channels."""
    odd = {p: p.data for p in model.parameters() if not p.is_contiguous()}
    for parameter, data in odd.items():
        parameter.data = data.contiguous()
    try:
        yield
    finally:
        for parameter, data in odd.items():
            parameter.data = data


class Trace(TorchDispatchMode):
    """The labels of all tensors of a forward, and what layers read and write.

    Attributes
    ----------
    reads, writes, norms
        Labels of the channels of each layer, by its name, int64.
    pads
        Stride of each padding shortcut, and the labels of the zeros that it puts before and after.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names = {module: name for name, module in model.named_modules()}
        self.reads: dict[str, np.ndarray] = {}
        self.writes: dict[str, np.ndarray] = {}
        self.norms: dict[str, np.ndarray] = {}
        self.pads: dict[str, tuple[int, np.ndarray, np.ndarray]] = {}
        self._parent = [FIXED]
        # The tensors are held with their labels, so that no id is given twice.
        self._labels: dict[int, tuple[Tensor, Tensor]] = {}
        self._stack: list[nn.Module] = []
        self._paused = False
        self._padded: dict[nn.Module, tuple[np.ndarray, np.ndarray]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: nothing is compiled here, and the compiler takes a second to import."""
        return False

    @classmethod
    def of(cls, model: nn.Module, example: Mapping[str, Tensor]) -> Self:
        """Run a network once and return its trace.

        Where some of its layers do not run, as heads that only training uses, it is run once more
        as in training: the channels that they read are fixed, so that they can stay as they are.
        """
        trace = cls(model)
        modes = {module: module.training for module in model.modules()}
        try:
            with torch.no_grad(), trace._hooked(model), _in_rows(model):
                trace._run(model.eval(), example)
                trace._keep_idle(model, example)
        finally:
            for module, training in modes.items():
                module.training = training
        return trace

    def _run(self, model: nn.Module, example: Mapping[str, Tensor]) -> None:
        """Label what one forward does; its inputs and outputs are fixed."""
        kept, fixed = torch.contiguous_format, torch.zeros((), dtype=torch.int64)
        inputs = {k: v.detach().clone(memory_format=kept) for k, v in example.items()}
        for value in inputs.values():
            self._give(value, fixed)
        with self:
            output = model(**inputs)
        for value in tensors_in(output):
            self.unite(self._of(value), fixed)

    def _keep_idle(self, model: nn.Module, example: Mapping[str, Tensor]) -> None:
        """Fix the channels of layers that did not run, as far as training runs them."""
        tables = self.reads, self.writes, self.norms, self.pads
        idle = {name for module, name in self.names.items() if isinstance(module, LEAVES)}
        idle -= {name for table in tables for name in table}
        if not idle:
            return
        for module in model.modules():  # layers themselves stay as in evaluation
            module.training = next(module.children(), None) is not None
        buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        try:
            with torch.random.fork_rng():
                self._run(model, example)
        except LowRankError:
            raise
        except Exception:  # it asks for labels, say: nothing is known of its training
            self._stack, self._paused = [], False
        finally:  # its code may move averages by itself
            for buffer, value in buffers:
                buffer.copy_(value)
        for name in idle:
            for table in tables:
                for labels in _arrays(table.pop(name, ())):
                    self.unite(torch.from_numpy(labels), torch.zeros((), dtype=torch.int64))

    def find(self, labels: np.ndarray | Tensor) -> np.ndarray:
        """Return the label that stands for all that were united with each of `labels`."""
        flat = np.asarray(labels).reshape(-1)
        distinct, back = np.unique(flat, return_inverse=True)
        return np.array([self._root(int(label)) for label in distinct], dtype=np.int64)[back]

    def unite(self, one: Tensor, other: Tensor) -> None:
        """Unite labels of the same places."""
        if one is other:
            return
        pairs = torch.stack([part.reshape(-1) for part in torch.broadcast_tensors(one, other)])
        for a, b in torch.unique(pairs, dim=1).T.tolist():
            low, high = sorted((self._root(a), self._root(b)))
            self._parent[high] = low

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one function of PyTorch's core, and label what it gives."""
        out = func(*args, **(kwargs or {}))
        if not self._paused and not (self._stack and isinstance(self._stack[-1], LEAVES)):
            self._follow(func, args, kwargs or {}, out)
        return out

    def _follow(self, func: Any, args: tuple, kwargs: dict[str, Any], out: Any) -> None:
        given = [value for value in tensors_in((args, kwargs)) if id(value) in self._labels]
        if not given:
            return
        name = func._schema.name.removeprefix("aten::").removesuffix("_")
        results = [value for value in tensors_in(out) if value.is_floating_point()]
        if all((self.find(self._small(value)) == FIXED).all() for value in given):
            for value in results:
                self._give(value, torch.zeros((), dtype=torch.int64))
            return
        kind = KINDS.get(name)
        if kind == "each number" and self._plain(args, given):
            labels = [self._of(value) for value in given]
            for other in labels[1:]:
                self.unite(labels[0], other)
            self._give(results[0], max(labels, key=lambda part: (part.ndim, part.numel())))
        elif kind == "moved" and len(given) == len(list(tensors_in(args))):
            moved = self._moved(name, func, args, kwargs, results)
            for value, labels in zip(results, tensors_in(moved), strict=True):
                self._give(value, labels)
        elif kind == "averaged" and len(args) > 1:
            self._give(results[0], self._averaged(given[0], results[0], args[1]))
        elif kind == "pooled":
            self._give(results[0], self._averaged(given[0], results[0], (-1, -2)))
        elif kind == "padded":
            self._pad(results[0], given[0], args)
        elif kind == "kept whole":
            self.unite(self._small(given[0]), torch.zeros((), dtype=torch.int64))
            self._give(results[0], torch.zeros((), dtype=torch.int64))
        else:
            raise LowRankError(
                f"filters around {self._place()} cannot be pruned: channels go through {name}, "
                "which is not known to leave them apart"
            )

    def _moved(
        self, name: str, func: Any, args: tuple, kwargs: dict[str, Any], results: list[Tensor]
    ) -> Any:
        """Return the labels after numbers changed their places, as the numbers did."""
        if "view" in name or "reshape" in name:  # labels are repeated by strides of 0
            return self._of(args[0]).reshape(results[0].shape)
        return func(*self._swapped(args), **kwargs)

    def _plain(self, args: tuple, given: list[Tensor]) -> bool:
        """Whether all tensors but the labelled ones are single numbers."""
        known = {id(value) for value in given}
        return all(v.numel() == 1 or id(v) in known for v in tensors_in(args))

    def _averaged(self, given: Tensor, result: Tensor, dims: Sequence[int]) -> Tensor:
        """Return the labels after the numbers along some dimensions became fewer, or one."""
        labels = self._of(given)
        for dim in dims:
            first = labels.narrow(dim, 0, 1)
            if (labels != first).any():
                raise LowRankError(
                    f"filters around {self._place()} cannot be pruned: it averages over channels"
                )
            labels = first
        if labels.ndim > result.ndim:
            gone = {dim % labels.ndim for dim in dims}
            labels = labels[tuple(0 if d in gone else slice(None) for d in range(labels.ndim))]
        return labels

    def _pad(self, result: Tensor, given: Tensor, args: tuple) -> None:
        labels, amounts = self._of(given), list(args[1])
        before, after = amounts[4:6] if len(amounts) >= 6 else (0, 0)
        if labels.ndim != 4 or len(amounts) > 6 or min(amounts) < 0 or (len(args) > 2 and args[2]):
            raise LowRankError(
                f"filters around {self._place()} cannot be pruned: it pads in an unknown way"
            )
        labels = labels[:, :, :1, :1]
        if before or after:
            new = self._new(before), self._new(after)
            parts = [torch.from_numpy(part).view(1, -1, 1, 1) for part in new]
            labels = torch.cat([parts[0], labels, parts[1]], dim=1)
            self._padded[self._stack[-1]] = new
        self._give(result, labels)

    @contextmanager
    def _hooked(self, model: nn.Module) -> Iterator[None]:
        """Tell the trace where the forward is, and what goes into and out of each layer."""
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

    def _leave(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], out: Any) -> None:
        self._paused = True  # the trace's own arithmetic is not the network's
        self._through(module, args, kwargs, out)
        self._paused = False
        self._stack.pop()

    def _through(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], out: Any) -> None:
        given = next(tensors_in((args, kwargs)), None)
        if isinstance(module, nn.Conv2d | nn.Linear):
            self._through_layer(module, given, out)
        elif isinstance(module, _BatchNorm):
            labels = self._channels(given, 1)
            self._join(self.norms, self.names[module], labels)
            self._give(out, self._of(given))
        elif isinstance(module, PaddedShortcut):
            labels = torch.from_numpy(self._channels(given, 1))
            new = self._new(module.before), self._new(module.after)
            whole = torch.cat([torch.from_numpy(new[0]), labels, torch.from_numpy(new[1])])
            self.pads[self.names[module]] = module.stride, *new
            self._give(out, whole.view(1, -1, 1, 1))
        elif module in self._padded:
            self._through_shortcut(module, given, out)

    def _through_layer(self, module: nn.Module, given: Tensor, out: Tensor) -> None:
        name, dim = self.names[module], 1 if isinstance(module, nn.Conv2d) else -1
        labels = self._channels(given, dim)
        groups = getattr(module, "groups", 1)
        if groups not in (1, len(labels)):
            raise LowRankError(
                f"layer {name!r} has {groups} groups of channels; filters can be pruned around "
                "convolutions with one group, or with one group for each channel"
            )
        self._join(self.reads, name, labels)
        if groups == 1:
            written = self.writes.get(name)
            written = self._new(out.shape[dim]) if written is None else written
        else:
            written = np.repeat(labels, out.shape[dim] // len(labels))
        self.writes[name] = written
        shape = [1] * out.ndim
        shape[dim] = -1
        self._give(out, torch.from_numpy(written).view(shape))

    def _through_shortcut(self, module: nn.Module, given: Tensor, out: Tensor) -> None:
        """Check that a module which pads channels is a shortcut that can be replaced."""
        name, (before, after) = self.names[module], self._padded.pop(module)
        stride = -(-given.shape[-1] // out.shape[-1])
        same = PaddedShortcut(len(before), len(after), stride)
        plain = not list(module.children()) and not module.state_dict()
        if not plain or (again := same(given)).shape != out.shape or not torch.equal(again, out):
            raise LowRankError(
                f"{self._place()} pads channels by itself, so that they cannot be pruned; put the "
                "padding into a PaddedShortcut"
            )
        self.pads[name] = stride, before, after

    def _join(self, table: dict[str, np.ndarray], name: str, labels: np.ndarray) -> None:
        """Note the labels that a layer reads; those of all its calls are united."""
        known = torch.from_numpy(table.setdefault(name, labels))
        self.unite(known, torch.from_numpy(labels))

    def _channels(self, given: Tensor, dim: int) -> np.ndarray:
        """Return the label of each channel along a dimension."""
        labels = self._of(given).movedim(dim, 0).flatten(1)
        if (labels != labels[:, :1]).any():
            raise LowRankError(
                f"filters cannot be pruned: {self._place()} mixes channels with pixels"
            )
        return labels[:, 0].numpy().copy()

    def _new(self, count: int) -> np.ndarray:
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return np.arange(first, first + count)

    def _root(self, label: int) -> int:
        while self._parent[label] != label:
            self._parent[label] = label = self._parent[self._parent[label]]
        return label

    def _give(self, value: Tensor, labels: Tensor) -> None:
        self._labels[id(value)] = value, labels.expand(value.shape)

    def _of(self, value: Tensor) -> Tensor:
        """Return the labels of a tensor, of its shape; a constant's are fixed."""
        if id(value) in self._labels:
            return self._labels[id(value)][1]
        return torch.zeros((), dtype=torch.int64).expand(value.shape)

    def _small(self, value: Tensor) -> Tensor:
        """Return the labels of a tensor, with repetitions left out."""
        labels = self._of(value)
        for dim, stride in enumerate(labels.stride()):
            if stride == 0 and labels.shape[dim] > 1:
                labels = labels.narrow(dim, 0, 1)
        return labels

    def _swapped(self, value: Any) -> Any:
        """Return arguments with labels in the places of their tensors."""
        if isinstance(value, Tensor):
            return self._of(value)
        if isinstance(value, list | tuple):
            return type(value)(self._swapped(part) for part in value)
        return value

    def _place(self) -> str:
        """Return the name of the module that runs, as errors show it."""
        name = self.names[self._stack[-1]] if self._stack else ""
        return repr(name) if name else "the network"


def _arrays(entry: Any) -> list[np.ndarray]:
    """Return the labels in an entry of a trace's tables."""
    parts = entry if isinstance(entry, tuple) else (entry,)
    return [part for part in parts if isinstance(part, np.ndarray)]


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested lists, tuples and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors_in(part)
