"""The seconds of a layer at other ranks, groups and numbers of channels, each form measured.

Kernels work in blocks of channels, so seconds rise in steps, and some ranks are slower than larger
ones. Each form is therefore measured at a few sizes, in turn with the dense layer, on inputs of the
shape that the layer gets in the network. Any other size costs what the next larger measured size
costs. The dense layer's own seconds are those in the running network, where fresh memory takes
time as well: factors save the difference or the proportion, whichever is less; fewer channels save
in proportion.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lowrank_bench.device import device_of, fixed_threads
from lowrank_bench.latency.clock import Clock, rounds_within, taken_in_turn
from lowrank_bench.latency.seconds import batch_of, dense_seconds
from lowrank_bench.layers.convolution import FactorizedConv2d
from lowrank_bench.layers.fold import kernel_shape, matrix_shape, weights_per_rank
from lowrank_bench.layers.geometry import convolution_options
from lowrank_bench.layers.linear import FactorizedLinear
from lowrank_bench.network.hooks import watching
from lowrank_bench.network.layers import Layer, weight_of
from lowrank_bench.network.problem import NetworkProblem

GRAIN = 16  # numbers in one register, the block that kernels work in
SMALL = (4, 8)  # smaller sizes that have kernels of their own
FINE, COARSE = 1.2, 1.6  # growth of measured sizes: of ranks, and of channels on two axes
# Shares of the dense seconds: the cost of what does not pay, and the least cost of what does.
NEVER, LEAST = 2.0, 0.01
MAX_GROUPS = 4  # of a cut, unless more are asked for: kernels with many groups are slow
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
    """Return the largest size, `full` at most, that costs no more than `size`."""
    return min(next((small for small in SMALL if size <= small), _up(size)), full)


def rank_seconds(
    problem: NetworkProblem, layer: Layer, scheme: int = 0, groups: int = 1
) -> NDArray[np.float64]:
    """Return the seconds of a layer at every rank, float64 r.

    A rank costs `NEVER` times the dense seconds if it is no faster than the dense layer, or was not
    measured because it has as many multiply-adds. So does every rank of an embedding: a look-up is
    faster than any product.

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
    shape = _input_shapes(problem)[layer.name]
    module = problem.model.get_submodule(layer.name)
    alone, measured = problem.cached(
        ("latency", "ranks", _speed_key(module, shape), scheme, groups),
        lambda: _at_ranks(module, shape, scheme, groups),
    )
    start, extra = 0, _extras(problem).get(layer.name, 0.0)
    for rank, factors in measured.items():
        # In the running network the saving is the smaller of the difference and the proportion.
        cost = max(dense - alone + factors, dense * factors / alone) + extra
        if cost < dense:
            seconds[start:rank] = max(cost, LEAST * dense)
        start = rank
    return seconds


def sliced_seconds(problem: NetworkProblem, layer: Layer, inputs: int, outputs: int) -> float:
    """Return the seconds of a layer with `inputs` input and `outputs` output channels.

    Numbers are rounded up to whole blocks and interpolated between those measured. A layer with
    more channels never costs less.
    """
    dense = dense_seconds(problem)[layer.name]
    shape = _input_shapes(problem)[layer.name]
    module = problem.model.get_submodule(layer.name)
    rows, columns, shares = problem.cached(
        ("latency", "channels", _speed_key(module, shape)), lambda: _shares(module, shape)
    )
    if (inputs, outputs) == (rows[-1], columns[-1]):
        return dense
    # Bilinear interpolation: first along the inputs, for every measured number of outputs.
    at = rounded_up(inputs, rows[-1])
    across = [float(np.interp(at, rows, shares[:, place])) for place in range(len(columns))]
    share = float(np.interp(rounded_up(outputs, columns[-1]), columns, across))
    return min(max(share * dense + _extras(problem).get(layer.name, 0.0), LEAST * dense), dense)


def learn(
    problem: NetworkProblem, rows: Sequence[Mapping[str, Any]], saved: Mapping[str, float]
) -> None:
    """Correct the seconds of layers by what they saved in a running network.

    If a form saved less there than expected, because caches and memory are shared, all forms of its
    layer cost that much more from now on.

    Parameters
    ----------
    rows
        What was chosen, as in `CompressedNetwork.layers`.
    saved
        Seconds that each layer saved.
    """
    extras, dense = _extras(problem), dense_seconds(problem)
    # What the tables promised for the chosen form of each layer.
    for layer, row in zip(problem.layers, rows, strict=True):
        if "inputs" in row:
            expected = sliced_seconds(problem, layer, row["inputs"], row["outputs"])
        elif row["rank"] is not None:
            cut = row.get("scheme", 0), row.get("groups", 1)
            expected = float(rank_seconds(problem, layer, *cut)[row["rank"] - 1])
        else:
            continue
        # Seconds that were promised and not saved; a form that promised none teaches nothing.
        missing = dense[layer.name] - expected - saved[layer.name]
        if expected < dense[layer.name]:
            extras[layer.name] = extras.get(layer.name, 0.0) + missing


def _extras(problem: NetworkProblem) -> dict[str, float]:
    """Return the seconds that `learn` added to all forms of each layer."""
    extras: dict[str, float] = problem.cached(("latency", "extras", problem.batch), dict)
    return extras


def _up(size: int) -> int:
    return -(-size // GRAIN) * GRAIN


def _input_shapes(problem: NetworkProblem) -> dict[str, torch.Size]:
    """Return the shape of each targeted layer's input, the largest one if it runs several times."""

    def observe() -> dict[str, torch.Size]:
        """Return the shape of the largest input of each layer."""
        shapes: dict[str, torch.Size] = {}

        def watcher(name: str, inputs: Tensor, _: object) -> None:
            """Keep the shape of the largest input."""
            if name not in shapes or inputs.numel() > shapes[name].numel():
                shapes[name] = inputs.shape

        names = [layer.name for layer in problem.layers]
        with torch.no_grad(), watching(problem.model, {n: partial(watcher, n) for n in names}):
            problem.model(**batch_of(problem))
        return shapes

    return problem.cached(("latency", "shapes", problem.batch), observe)


def _speed_key(module: nn.Module, shape: torch.Size) -> tuple[object, ...]:
    """Return what decides the speed of a layer: what `repr` shows and its input's shape."""
    return repr(module), tuple(shape)


def _at_ranks(
    module: nn.Module, inputs: torch.Size, scheme: int, groups: int
) -> tuple[float, dict[int, float]]:
    """Return the seconds of the dense layer alone, and those of the measured ranks, rising."""
    weight = weight_of(module)
    shape = kernel_shape(tuple(weight.shape))
    # Only ranks with fewer weights than the dense layer can be faster.
    most = -(-weight.numel() // weights_per_rank(shape, scheme, groups)) - 1
    most = min(most, *matrix_shape(shape, scheme, groups))
    if most < 1:
        return 1.0, {}
    ranks = ladder(most)
    seconds = _seconds(
        [module, *(factorized(module, rank, groups, scheme) for rank in ranks)],
        [inputs] * (len(ranks) + 1),
        weight,
    )
    return seconds[0], dict(zip(ranks, seconds[1:], strict=True))


def _shares(
    module: nn.Module, shape: torch.Size
) -> tuple[list[int], list[int], NDArray[np.float64]]:
    """Return measured numbers of input and output channels, and shares of the dense seconds."""
    axis = 1 if isinstance(module, nn.Conv2d) else len(shape) - 1
    weight = weight_of(module)
    rows, columns = (sorted({*ladder(size, COARSE), size}) for size in (shape[axis], len(weight)))
    pairs = [(inputs, outputs) for inputs in rows for outputs in columns]
    shapes = [torch.Size([*shape[:axis], inputs, *shape[axis + 1 :]]) for inputs, _ in pairs]
    modules = [sliced(module, *pair) for pair in pairs]
    measured = _seconds(modules, shapes, weight)
    seconds: NDArray[np.float64] = np.array(measured).reshape(len(rows), len(columns))
    # Noise must not make more channels look faster than fewer.
    seconds = np.maximum.accumulate(np.maximum.accumulate(seconds, axis=0), axis=1)
    return rows, columns, seconds / seconds[-1, -1]


def factorized(dense: nn.Module, rank: int, groups: int, scheme: int) -> nn.Module:
    """Return an empty layer, on the meta device, of the shapes that factors of `dense` have."""
    has_bias = dense.bias is not None
    if isinstance(dense, nn.Linear):
        sizes = dense.in_features, dense.out_features, rank, groups
        return FactorizedLinear(*sizes, bias=has_bias, device="meta")
    assert isinstance(dense, nn.Conv2d)
    return FactorizedConv2d(
        dense.in_channels,
        dense.out_channels,
        (dense.kernel_size[0], dense.kernel_size[1]),
        rank,
        groups,
        scheme,
        **convolution_options(dense),
        bias=has_bias,
        device="meta",
    )


def sliced(dense: nn.Module, inputs: int, outputs: int) -> nn.Module:
    """Return an empty layer, on the meta device, like `dense` with fewer channels."""
    has_bias = dense.bias is not None
    if isinstance(dense, nn.Linear):
        return nn.Linear(inputs, outputs, bias=has_bias, device="meta")
    assert isinstance(dense, nn.Conv2d)
    options = convolution_options(dense)
    size = (dense.kernel_size[0], dense.kernel_size[1])
    return nn.Conv2d(inputs, outputs, size, **options, bias=has_bias, device="meta")


def _seconds(
    modules: Sequence[nn.Module], shapes: Sequence[torch.Size], like: Tensor
) -> list[float]:
    """Return the least seconds of each layer on a random input of its shape."""
    count = max(
        max(prod(shape) for shape in shapes),
        max(part.numel() for module in modules for part in module.parameters()),
    )
    # All inputs and weights are views of the same numbers, so that large tables fit into memory.
    generator = torch.Generator().manual_seed(0)
    values = (0.1 * torch.randn(count, generator=generator)).to(like)
    clock = Clock(device_of(modules[0]))
    calls: list[Callable[[], object]] = [
        partial(_filled(module, values), values[: prod(shape)].view(shape))
        for module, shape in zip(modules, shapes, strict=True)
    ]
    with fixed_threads(1), torch.inference_mode():
        first = taken_in_turn(calls, clock, 1, warm_up=1)
        rounds = rounds_within(sum(times[0] for times in first), BUDGET, *ROUNDS)
        return [min(times) for times in taken_in_turn(calls, clock, rounds)]


def _filled(module: nn.Module, values: Tensor) -> nn.Module:
    """Give the layer's empty parameters numbers: views of the first of `values`."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and parameter.device.type == "meta":
                view = values[: parameter.numel()].view(parameter.shape)
                part._parameters[name] = nn.Parameter(view, requires_grad=False)
    return module.eval()
