"""The seconds of a layer at other ranks, groups and numbers of channels, each form measured.

Kernels work in blocks of channels, so that seconds rise in steps and some ranks are slower than
larger ones. So forms are measured at few sizes, in turn with the dense layer on the input that it
gets in the network, and any other size costs what the next larger measured one does. The dense
layer's own seconds are those in the running network, where fresh memory takes its time as well:
factors save the difference or in proportion, whichever is less; fewer channels in proportion.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowrank_bench.device import device_of, fixed_threads
from lowrank_bench.latency.clock import Clock, rounds_within, taken_in_turn
from lowrank_bench.latency.seconds import batch_of, dense_seconds
from lowrank_bench.layers.convolution import FactorizedConv2d
from lowrank_bench.layers.fold import kernel_shape, matrix_shape, weights_per_rank
from lowrank_bench.layers.linear import FactorizedLinear
from lowrank_bench.network.hooks import watching
from lowrank_bench.network.layers import Layer
from lowrank_bench.network.problem import NetworkProblem

GRAIN = 16  # numbers of one register, the block that kernels work in
SMALL = (4, 8)  # sizes below it that have kernels of their own
FINE, COARSE = 1.2, 1.6  # growth of measured sizes: of ranks, and of channels on two axes
NEVER, LEAST = 2.0, 0.01  # of the dense seconds: what does not pay, and the least of what does
MAX_GROUPS = 4  # of a cut, where nothing else is asked for: grouped kernels are slow
BUDGET = 0.3  # seconds for the rounds of one table
ROUNDS = (3, 30)  # least and most


def ladder(most: int, growth: float = FINE) -> list[int]:
    """Return the sizes up to `most` that are measured, rising; at least one."""
    sizes = [size for size in (*SMALL, GRAIN) if size <= most]
    size = GRAIN
    while (size := _up(max(size + GRAIN, round(size * growth)))) <= most:
        sizes.append(size)
    return sizes or [most]


def rounded_up(size: int, full: int) -> int:
    """Return the largest size that costs no more than `size`, of `full` at most."""
    return min(next((small for small in SMALL if size <= small), _up(size)), full)


def rank_seconds(
    problem: NetworkProblem, layer: Layer, scheme: int = 0, groups: int = 1
) -> np.ndarray:
    """Return the seconds of a layer at every rank, float64 r.

    Ranks that are no faster than the dense layer, or not measured for having as many multiply-adds,
    cost `NEVER` times what it does. So do all of an embedding's: a look-up is faster than any
    product.

    Parameters
    ----------
    scheme, groups
        How the layer is cut (`layers.convolution`).
    """
    dense = dense_seconds(problem)[layer.name]
    most = min(matrix_shape(kernel_shape(layer.shape), scheme, groups))
    seconds = np.full(most, NEVER * dense)
    if layer.kind == "embedding":
        return seconds
    given = _given(problem)[layer.name]
    module = problem.model.get_submodule(layer.name)
    alone, found = problem.cached(
        ("latency", "ranks", _about(module, given), scheme, groups),
        lambda: _at_ranks(module, given, scheme, groups),
    )
    start, extra = 0, _extras(problem).get(layer.name, 0.0)
    for rank, own in found.items():
        cost = max(dense - alone + own, dense * own / alone) + extra
        if cost < dense:
            seconds[start:rank] = max(cost, LEAST * dense)
        start = rank
    return seconds


def sliced_seconds(problem: NetworkProblem, layer: Layer, inputs: int, outputs: int) -> float:
    """Return the seconds of a layer with so many input and output channels.

    Numbers between those measured are interpolated, after they are rounded up to whole blocks; a
    layer with more channels never costs less.
    """
    dense = dense_seconds(problem)[layer.name]
    given = _given(problem)[layer.name]
    module = problem.model.get_submodule(layer.name)
    rows, columns, shares = problem.cached(
        ("latency", "channels", _about(module, given)), lambda: _shares(module, given)
    )
    if (inputs, outputs) == (rows[-1], columns[-1]):
        return dense
    at = rounded_up(inputs, rows[-1])
    across = [float(np.interp(at, rows, shares[:, place])) for place in range(len(columns))]
    share = float(np.interp(rounded_up(outputs, columns[-1]), columns, across))
    return min(max(share * dense + _extras(problem).get(layer.name, 0.0), LEAST * dense), dense)


def learn(
    problem: NetworkProblem, rows: Sequence[Mapping[str, Any]], saved: Mapping[str, float]
) -> None:
    """Take note of how many seconds layers saved in a running network, for all that follows.

    What a form saved less there than was expected, for caches and memory that it shares, all forms
    of its layer cost more from now on.

    Parameters
    ----------
    rows
        What was chosen, as in `CompressedNetwork.layers`.
    saved
        Seconds that each layer saved.
    """
    extras, dense = _extras(problem), dense_seconds(problem)
    for layer, row in zip(problem.layers, rows, strict=True):
        if "inputs" in row:
            expected = sliced_seconds(problem, layer, row["inputs"], row["outputs"])
        elif row["rank"] is not None:
            cut = row.get("scheme", 0), row.get("groups", 1)
            expected = float(rank_seconds(problem, layer, *cut)[row["rank"] - 1])
        else:
            continue
        missing = dense[layer.name] - expected - saved[layer.name]
        if expected < dense[layer.name]:
            extras[layer.name] = extras.get(layer.name, 0.0) + missing


def _extras(problem: NetworkProblem) -> dict[str, float]:
    """Return the seconds that `learn` added to all forms of each layer."""
    return problem.cached(("latency", "extras", problem.batch), dict)


def _up(size: int) -> int:
    return -(-size // GRAIN) * GRAIN


def _given(problem: NetworkProblem) -> dict[str, torch.Size]:
    """Return the shape of each targeted layer's input, the largest one of several calls."""

    def found() -> dict[str, torch.Size]:
        """Return the shape of the largest input of each layer."""
        shapes: dict[str, torch.Size] = {}

        def watcher(name: str, given: Tensor, _: object) -> None:
            """Keep the shape of the largest input."""
            if name not in shapes or given.numel() > shapes[name].numel():
                shapes[name] = given.shape

        names = [layer.name for layer in problem.layers]
        with torch.no_grad(), watching(problem.model, {n: partial(watcher, n) for n in names}):
            problem.model(**batch_of(problem))
        return shapes

    return problem.cached(("latency", "shapes", problem.batch), found)


def _about(module: nn.Module, given: torch.Size) -> tuple[object, ...]:
    """Return what decides the speed of a layer: what `repr` shows and its input's shape."""
    return repr(module), tuple(given)


def _at_ranks(
    module: nn.Module, given: torch.Size, scheme: int, groups: int
) -> tuple[float, dict[int, float]]:
    """Return the seconds of the dense layer, and of the measured ranks, rising."""
    weight = module.weight
    shape = kernel_shape(tuple(weight.shape))
    most = -(-weight.numel() // weights_per_rank(shape, scheme, groups)) - 1
    most = min(most, *matrix_shape(shape, scheme, groups))
    if most < 1:
        return 1.0, {}
    ranks = ladder(most)
    seconds = _seconds(
        [module, *(factorized(module, rank, groups, scheme) for rank in ranks)],
        [given] * (len(ranks) + 1),
        module.weight,
    )
    return seconds[0], dict(zip(ranks, seconds[1:], strict=True))


def _shares(module: nn.Module, given: torch.Size) -> tuple[list[int], list[int], np.ndarray]:
    """Return measured numbers of input and output channels, and shares of the dense seconds."""
    axis = 1 if isinstance(module, nn.Conv2d) else len(given) - 1
    rows, columns = (
        sorted({*ladder(size, COARSE), size}) for size in (given[axis], len(module.weight))
    )
    pairs = [(inputs, outputs) for inputs in rows for outputs in columns]
    shapes = [torch.Size([*given[:axis], inputs, *given[axis + 1 :]]) for inputs, _ in pairs]
    modules = [sliced(module, *pair) for pair in pairs]
    seconds = np.array(_seconds(modules, shapes, module.weight)).reshape(len(rows), len(columns))
    seconds = np.maximum.accumulate(np.maximum.accumulate(seconds, axis=0), axis=1)
    return rows, columns, seconds / seconds[-1, -1]


def factorized(dense: nn.Module, rank: int, groups: int, scheme: int) -> nn.Module:
    """Return an empty layer, on the meta device, as factors of a dense one would be."""
    has_bias = dense.bias is not None
    if isinstance(dense, nn.Linear):
        sizes = dense.in_features, dense.out_features, rank, groups
        return FactorizedLinear(*sizes, bias=has_bias, device="meta")
    options = {
        name: getattr(dense, name) for name in ("stride", "padding", "dilation", "padding_mode")
    }
    sizes = dense.in_channels, dense.out_channels, dense.kernel_size, rank, groups, scheme
    return FactorizedConv2d(*sizes, **options, bias=has_bias, device="meta")


def sliced(dense: nn.Module, inputs: int, outputs: int) -> nn.Module:
    """Return an empty layer, on the meta device, like a dense one with fewer channels."""
    has_bias = dense.bias is not None
    if isinstance(dense, nn.Linear):
        return nn.Linear(inputs, outputs, bias=has_bias, device="meta")
    names = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
    options = {name: getattr(dense, name) for name in names}
    return nn.Conv2d(inputs, outputs, **options, bias=has_bias, device="meta")


def _seconds(
    modules: Sequence[nn.Module], shapes: Sequence[torch.Size], like: Tensor
) -> list[float]:
    """Return the least seconds of each layer on a random input of its shape."""
    where = {"dtype": like.dtype, "device": like.device}
    count = max(
        max(prod(shape) for shape in shapes),
        max(part.numel() for module in modules for part in module.parameters()),
    )
    generator = torch.Generator().manual_seed(0)
    values = (0.1 * torch.randn(count, generator=generator)).to(**where)
    clock = Clock(device_of(modules[0]))
    calls: list[Callable[[], object]] = [
        partial(_filled(module, values), values[: prod(shape)].view(shape))
        for module, shape in zip(modules, shapes, strict=True)
    ]
    with fixed_threads(1), torch.inference_mode():
        first = taken_in_turn(calls, clock, 1, warm_up=1)
        rounds = rounds_within(sum(own[0] for own in first), BUDGET, *ROUNDS)
        return [min(own) for own in taken_in_turn(calls, clock, rounds)]


def _filled(module: nn.Module, values: Tensor) -> nn.Module:
    """Give the layer's empty parameters numbers: views of the first of `values`."""
    for part in module.modules():
        for name, own in part._parameters.items():
            if own is not None and own.device.type == "meta":
                view = values[: own.numel()].view(own.shape)
                part._parameters[name] = nn.Parameter(view, requires_grad=False)
    return module.eval()
