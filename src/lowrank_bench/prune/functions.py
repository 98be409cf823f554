"""How the labels of channels pass through the functions of PyTorch's core."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.prune.labels import Labels, tensors_in

# Functions by what happens to labels; the names of in-place forms end in "_", which is left out.
_NAMES = {
    "elementwise": "relu hardtanh clamp clamp_min clamp_max silu gelu sigmoid tanh hardswish "
    "hardsigmoid elu mish leaky_relu threshold softplus add sub mul div clone detach alias "
    "_to_copy native_dropout dropout neg abs square sqrt pow exp lift_fresh contiguous",
    "moving": "view _unsafe_view reshape _reshape_alias permute transpose t slice select squeeze "
    "unsqueeze expand flatten cat split split_with_sizes unbind movedim stack",
    "pooling": "max_pool2d max_pool2d_with_indices mkldnn_max_pool2d avg_pool2d "
    "_adaptive_avg_pool2d adaptive_avg_pool2d mkldnn_adaptive_avg_pool2d adaptive_max_pool2d "
    "upsample_nearest2d upsample_bilinear2d",
    "reducing": "mean sum amax",
    "padding": "constant_pad_nd",
    "softmax": "_softmax _log_softmax",  # as networks end, whose outputs cannot be pruned
}
KINDS = {name: kind for kind, names in _NAMES.items() for name in names.split()}


@dataclass
class Call:
    """One call of a function; at least one of its tensors is labelled.

    Attributes
    ----------
    func, args, kwargs
        The function of PyTorch's core, and its arguments.
    labelled
        The labelled tensors among the arguments.
    results
        The tensors of real numbers that it returned.
    place
        The module that runs, as errors name it.
    padding
        Labels of the zero channels that the call put before and after the others, if it did.
    """

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    labelled: list[Tensor]
    results: list[Tensor]
    place: str
    padding: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None

    @property
    def name(self) -> str:
        """Return the name of the function, the same for its in-place form."""
        name: str = self.func._schema.name
        return name.removeprefix("aten::").removesuffix("_")


def pass_labels(labels: Labels, call: Call) -> None:
    """Label the results of a call.

    Raises
    ------
    LowRankError
        When the function may mix channels that can be pruned.
    """
    # Where nothing can be pruned, any function is allowed.
    if all(labels.are_fixed(value) for value in call.labelled):
        for value in call.results:
            labels.give_fixed(value)
        return
    kind = KINDS.get(call.name)
    if kind is None or not _is_simple(kind, labels, call):
        raise LowRankError(
            f"filters around {call.place} cannot be pruned: channels go through {call.name}, "
            "which is not known to keep them apart"
        )
    _PASS[kind](labels, call)


def _is_simple(kind: str, labels: Labels, call: Call) -> bool:
    """Return whether the arguments are of the form that the rule for this kind expects."""
    tensors = list(tensors_in(call.args))
    if kind == "elementwise":  # a constant of one number acts on all channels alike
        return all(value.numel() == 1 or labels.has(value) for value in tensors)
    if kind == "moving":
        return len(call.labelled) == len(tensors)
    return kind != "reducing" or len(call.args) > 1


def _elementwise(labels: Labels, call: Call) -> None:
    parts = [labels.of(value) for value in call.labelled]
    for other in parts[1:]:
        labels.unite(parts[0], other)
    # United labels are equally good: take those that need the least broadcasting.
    labels.give(call.results[0], max(parts, key=lambda part: (part.ndim, part.numel())))


def _moving(labels: Labels, call: Call) -> None:
    moved: Any
    if "view" in call.name or "reshape" in call.name:
        # Labels have strides of 0 where they repeat, which a view of the numbers need not allow.
        moved = labels.of(call.args[0]).reshape(call.results[0].shape)
    else:
        moved = call.func(*labels.in_place_of(call.args), **call.kwargs)
    for value, part in zip(call.results, tensors_in(moved), strict=True):
        labels.give(value, part)


def _pooling(labels: Labels, call: Call) -> None:
    labels.give(call.results[0], _reduced(labels, call, (-1, -2)))


def _reducing(labels: Labels, call: Call) -> None:
    labels.give(call.results[0], _reduced(labels, call, call.args[1]))


def _reduced(labels: Labels, call: Call, dims: Sequence[int]) -> Tensor:
    """Return the labels after some dimensions became shorter, of length 1 or were removed."""
    reduced = labels.of(call.labelled[0])
    for dim in dims:
        first = reduced.narrow(dim, 0, 1)
        if (reduced != first).any():
            raise LowRankError(
                f"filters around {call.place} cannot be pruned: it averages over channels"
            )
        reduced = first
    if reduced.ndim > call.results[0].ndim:
        removed = {dim % reduced.ndim for dim in dims}
        reduced = reduced[tuple(0 if d in removed else slice(None) for d in range(reduced.ndim))]
    return reduced


def _padding(labels: Labels, call: Call) -> None:
    padded, amounts = labels.of(call.labelled[0]), list(call.args[1])
    # The amounts start with the last dimension, two for each; the third pair is of channels.
    before, after = amounts[4:6] if len(amounts) >= 6 else (0, 0)
    fills = len(call.args) > 2 and call.args[2]  # with another number than 0
    if padded.ndim != 4 or len(amounts) > 6 or min(amounts) < 0 or fills:
        raise LowRankError(
            f"filters around {call.place} cannot be pruned: it pads in an unknown way"
        )
    padded = padded[:, :, :1, :1]
    if before or after:
        call.padding = labels.new(before), labels.new(after)
        first, last = (torch.from_numpy(part).view(1, -1, 1, 1) for part in call.padding)
        padded = torch.cat([first, padded, last], dim=1)
    labels.give(call.results[0], padded)


def _softmax(labels: Labels, call: Call) -> None:
    labels.fix(labels.of(call.labelled[0]))
    labels.give_fixed(call.results[0])


_PASS: dict[str, Callable[[Labels, Call], None]] = {
    "elementwise": _elementwise,
    "moving": _moving,
    "pooling": _pooling,
    "reducing": _reducing,
    "padding": _padding,
    "softmax": _softmax,
}
