"""Check that a sliced network computes what the dense one does without the pruned channels.

Channels are followed through one forward of the dense network. Code that splits, views or counts
channels by their position does something else once some are gone, and no label shows it. So both
networks run on the same numbers.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from lowrank_bench.device import evaluating
from lowrank_bench.errors import LowRankError
from lowrank_bench.prune.graph import ChannelGraph
from lowrank_bench.prune.outputs import output_tensors
from lowrank_bench.prune.reads import Reads

# Some examples are louder than others, so that activations leave the range that is usual.
LOUDNESS = (1.0, 4.0, 0.25, 16.0)
NUMBERS, MOST_ROWS = (
    2**16,
    32,
)  # of the larger batch: small images are cheap, and many of them tried
TOLERANCE = 1e-5  # largest difference, relative to the largest number of an example's output
HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class Pair:
    """A dense network, and the copy that was sliced by a mask and a scale (`slice_network`)."""

    dense: nn.Module
    sliced: nn.Module
    graph: ChannelGraph
    mask: NDArray[np.bool_]
    scale: NDArray[np.float64] | None

    def masked_weights(self) -> dict[str, Tensor]:
        """Return the weights of layers that read pruned or scaled channels, made to do so.

        Depthwise convolutions are left out: the layers that read their outputs do it.
        """
        weights: dict[str, Tensor] = {}
        for name, units in self.graph.reads.items():
            layer = self.dense.get_submodule(name)
            factors = self.mask[units] * (1.0 if self.scale is None else self.scale[units])
            if getattr(layer, "groups", 1) == 1 and (factors != 1).any():
                weight = layer.get_parameter("weight").detach()
                factor = torch.from_numpy(factors).to(weight)
                weights[f"{name}.weight"] = weight * factor.view(1, -1, *[1] * (weight.ndim - 2))
        return weights

    def doubled(self) -> "Pair":
        """Return copies of both networks in double precision."""
        dense, sliced = (copy.deepcopy(one).double() for one in (self.dense, self.sliced))
        return Pair(dense, sliced, self.graph, self.mask, self.scale)


def check_sliced(pair: Pair, example: Mapping[str, Tensor]) -> None:
    """Check a sliced network against the dense one whose layers do not read pruned channels.

    Both run in evaluation mode on random numbers of several sizes, on one example and on a batch,
    of which the last is the given one. Where single precision tells them apart, double decides.

    Parameters
    ----------
    pair
        Both networks; neither is changed.
    example
        Keyword arguments of a forward, batch size 1.

    Raises
    ------
    LowRankError
        When the sliced network fails or an output differs by more than 1e-5 of its largest number;
        the message names the first layer that reads something else. Also when the dense network
        returns NaN or infinity.
    """
    if pair.mask.all() and (pair.scale is None or (pair.scale == 1).all()):
        return
    exact = any(p.dtype in HALF for p in pair.dense.parameters())
    for inputs, expected in _trials(pair, example):
        if exact or not _equal(expected, _outputs(pair.sliced, inputs)):
            _decide(pair, inputs)


def _trials(
    pair: Pair, example: Mapping[str, Tensor]
) -> Iterator[tuple[dict[str, Tensor], list[Tensor]]]:
    """Yield for each batch size inputs, and the finite outputs of the masked network."""
    ran, weights = False, pair.masked_weights()
    largest = max(value.numel() for value in example.values())
    for rows in (1, min(max(2, NUMBERS // max(1, largest)), MOST_ROWS)):
        generator = torch.Generator().manual_seed(rows)
        tries: list[Callable[[Tensor], Tensor]] = [
            partial(_random, rows=rows, generator=generator),
            partial(_repeated, rows=rows),
        ]
        for made in tries:
            inputs = {name: made(value) for name, value in example.items()}
            # The network may take no such numbers, or one example only.
            outputs = _outputs(pair.dense, inputs, weights)
            if outputs is not None and all(value.isfinite().all() for value in outputs):
                ran = True
                yield inputs, outputs
                break
    if not ran:
        raise LowRankError(
            f"the outputs of {type(pair.dense).__name__} are NaN or infinite on random inputs and "
            "on the example, so that the pruned network cannot be checked; give a real example"
        )


def _random(value: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    """Return random inputs of the size of an example; of several rows the last is the example."""
    full = _repeated(value, rows).clone()
    part = full[:-1] if rows > 1 and _is_batch(value) else full
    if value.is_floating_point():
        level = value.abs().max() if value.numel() else value.new_ones(())
        noise = torch.randn(part.shape, generator=generator).to(part)
        if _is_batch(value):
            factors = torch.tensor(LOUDNESS * MOST_ROWS)[: len(part)].to(part)
            noise *= factors.view(-1, *[1] * (part.ndim - 1))
        part.copy_(noise * torch.where((level > 0) & level.isfinite(), level, 1))
    elif value.numel():  # whole numbers may be indices: only those of the example are known
        places = torch.randint(value.numel(), part.shape, generator=generator)
        part.copy_(value.flatten()[places.to(value.device)])
    return full


def _repeated(value: Tensor, rows: int) -> Tensor:
    return value.repeat_interleave(rows, dim=0) if _is_batch(value) else value


def _is_batch(value: Tensor) -> bool:
    return value.ndim > 0 and len(value) == 1


def _run(
    model: nn.Module, inputs: Mapping[str, Tensor], weights: Mapping[str, Tensor] | None = None
) -> Any:
    """Return what a network returns, with other weights in some places, and leave it as it was."""
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    with torch.random.fork_rng(devices=[]), torch.no_grad(), evaluating(model):
        torch.default_generator.manual_seed(0)  # networks may draw numbers in any mode
        return functional_call(model, {**buffers, **(weights or {})}, (), dict(inputs))


def _outputs(
    model: nn.Module, inputs: Mapping[str, Tensor], weights: Mapping[str, Tensor] | None = None
) -> list[Tensor] | None:
    """Return the tensors that a network returns; None if it fails."""
    try:
        output = _run(model, inputs, weights)
    except Exception:  # the code is the user's
        return None
    return output_tensors(output)


def _equal(expected: list[Tensor], other: list[Tensor] | None) -> bool:
    """Return whether two lists of outputs agree."""
    if other is None or len(expected) != len(other):
        return False
    return all(close(one, two) for one, two in zip(expected, other, strict=True))


def close(expected: Tensor, other: Tensor) -> bool:
    """Return whether two tensors agree to 1e-5 of the largest number in a row of the first.

    Rows are along the first dimension; none counts as smaller than a thousandth of the largest.
    """
    if expected.shape != other.shape:
        return False
    if not expected.is_floating_point():
        return torch.equal(expected, other)
    one, two = expected.double().flatten(), other.double().flatten()
    if expected.ndim > 1 and expected.numel():
        one, two = one.view(len(expected), -1), two.view(len(expected), -1)
    if not one.numel() or torch.equal(one, two):
        return True
    sizes = one.abs().amax(-1, keepdim=True)
    gap = (one - two).abs().amax(-1, keepdim=True)  # NaN where one is not finite
    return bool((gap <= TOLERANCE * sizes.clamp(min=1e-3 * float(sizes.max()))).all())


def _decide(pair: Pair, inputs: Mapping[str, Tensor]) -> None:
    """Refuse a sliced network that differs in double precision as well."""
    doubled = pair.doubled()
    wide = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    expected = _outputs(doubled.dense, wide, doubled.masked_weights())
    if expected is None:  # the network's code insists on its own precision, which then decides
        doubled, wide = pair, dict(inputs)
        expected = _outputs(pair.dense, wide, pair.masked_weights())
    if not _equal(expected or [], _outputs(doubled.sliced, wide)):
        _refuse(doubled, wide)


def _refuse(pair: Pair, inputs: Mapping[str, Tensor]) -> None:
    """Raise the error that names where two networks part."""
    name = type(pair.dense).__name__
    dense, sliced = Reads(pair.dense, pair.graph.reads), Reads(pair.sliced, pair.graph.reads)
    with dense.noting():
        _run(pair.dense, inputs, pair.masked_weights())
    try:
        with sliced.noting():
            _run(pair.sliced, inputs)
    except Exception as error:
        fault = (f"{error}".splitlines() or [type(error).__name__])[0]
        raise LowRankError(
            f"{name} does not run without the pruned channels; its code depends on their number, "
            f"in {sliced.innermost()} ({fault}); rewrite that, or choose another method"
        ) from None
    place = dense.first_difference(sliced, pair.mask, close)
    raise LowRankError(
        f"filters of {name} cannot be pruned: its code splits, moves or counts channels by their "
        f"place, so that {place} would differ once some are gone; rewrite that code, or choose "
        "another method"
    )
