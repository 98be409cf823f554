"""The layers of a network as ALDS cuts them: what each cut costs, its errors, and what it becomes.

Every layer is seen as a convolution f×c×k1×k2; an embedding n×d as f = n, c = d without groups.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowrank_bench.alds.curves import Curve
from lowrank_bench.alds.errors import ERRORS, frobenius
from lowrank_bench.alds.search import Candidates, Choice, Cut
from lowrank_bench.alds.slices import Slices
from lowrank_bench.alds.whitened import Whitened, mean_shift, shrunk
from lowrank_bench.layers.convolution import FactorizedConv2d
from lowrank_bench.layers.embedding import compressed_embedding
from lowrank_bench.layers.fold import (
    SCHEMES,
    Shape,
    divisors,
    kernel_shape,
    nearest_divisor,
    weights_per_rank,
)
from lowrank_bench.layers.linear import FactorizedLinear
from lowrank_bench.linalg.factors import Factors
from lowrank_bench.network.gradients import output_gradients
from lowrank_bench.network.layers import Layer
from lowrank_bench.network.moments import Moments, input_moments, token_use
from lowrank_bench.network.problem import NetworkProblem

DATA = ("data", "loss")  # errors that look at calibration inputs


@dataclass(frozen=True)
class Cuts:
    """Which cuts are looked at.

    Attributes
    ----------
    error
        `spectral`, `bound`, `unscaled`, `frobenius`, `data` or `loss`.
    groups
        One number of groups, rounded to the nearest divisor of each layer's channels; None for all
        divisors.
    max_groups
        Most groups; None for no limit.
    schemes
        Folding schemes.
    align
        Ranks are multiples of it.
    """

    error: str
    groups: int | None = None
    max_groups: int | None = None
    schemes: tuple[int, ...] = (0,)
    align: int = 1


@dataclass(frozen=True)
class Costs:
    """What a layer costs, and what its cuts do.

    Attributes
    ----------
    dense
        Cost of the layer as it is.
    fixed
        Cost of a cut beside its factors: the bias.
    positions
        Cost of one weight: 1 parameter, or the multiply-adds of all places it is used at.
    embedding
        Whether it is a table, which is not cut into groups.
    looked_up
        Whether the left factor is looked up, which multiplies nothing.
    seconds
        For a folding scheme and a number of groups the cost at every rank, float64, where it is
        measured; None where it is `fixed` and `unit` times the rank.
    """

    dense: float
    fixed: int = 0
    positions: int = 1
    embedding: bool = False
    looked_up: bool = False
    seconds: Callable[[int, int], np.ndarray] | None = None

    def unit(self, shape: Shape, scheme: int, groups: int) -> int:
        """Return the cost of one unit of rank."""
        weights = shape[1] if self.looked_up else weights_per_rank(shape, scheme, groups)
        return weights * self.positions

    def paying(self, slices: Slices, groups: int, align: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the ranks that cost less than the layer, rising, and the cost of each.

        Multiples of `align`; without those that cost as much as a larger one.
        """
        if self.seconds is not None:
            own = self.seconds(slices.scheme, groups)[align - 1 :: align]
            above = np.append(np.minimum.accumulate(own[::-1])[::-1][1:], self.dense)
            kept = np.flatnonzero(own < np.minimum(above, self.dense))
            return align * (kept + 1), own[kept]
        unit = self.unit(slices.shape, slices.scheme, groups)
        most = min(int(-(-(self.dense - self.fixed) // unit)) - 1, slices.ranks(groups))
        ranks = np.arange(align, most + 1, align, dtype=np.int64)
        return ranks, self.fixed + float(unit) * ranks


@dataclass(frozen=True, eq=False)
class AldsLayer:
    """One targeted layer with everything that it can become.

    Attributes
    ----------
    layer
        The layer.
    weight
        Tensor f×c×k1×k2, its values.
    candidates
        Costs and errors of its cuts.
    slices
        For each scheme the slices of the weight.
    whitened
        The slices under the covariance of the inputs, for the errors `data` and `loss`.
    mean
        Mean input, whose response the bias takes over; None for other errors.
    """

    layer: Layer
    weight: Tensor
    candidates: Candidates
    slices: dict[int, Slices]
    whitened: Whitened | None = None
    mean: Tensor | None = None
    tokens: Tensor | None = field(default=None, repr=False)

    def factors(self, choice: Choice) -> tuple[Tensor, Tensor]:
        """Return decoders k×rows×j and encoders k×j×columns."""
        cut, rank = choice.cut, choice.rank
        assert cut is not None
        assert rank is not None
        if self.whitened is not None:
            return self.whitened.factors(cut.groups, rank)
        if self.tokens is not None:
            vectors = self.slices[0].bases(1).vectors[0, :rank]
            return (self.weight.flatten(1).double() @ vectors.T)[None], vectors[None]
        return self.slices[cut.scheme].factors(cut.groups, rank)

    def replacement(self, dense: nn.Module, choice: Choice) -> nn.Module:
        """Return the layer that replaces `dense`."""
        left, right = self.factors(choice)
        if self.layer.kind == "embedding":
            return compressed_embedding(dense, Factors(left[0], right[0]))
        bias = None
        if self.mean is not None:
            product = torch.cat(list(left @ right), dim=1)
            bias = mean_shift(self.weight, product, self.mean)
            if dense.bias is not None:
                bias = bias + dense.bias.detach().to(bias)
        if self.layer.kind == "linear":
            return FactorizedLinear.from_dense(dense, left, right, bias)
        assert choice.cut is not None
        return FactorizedConv2d.from_dense(dense, left, right, choice.cut.scheme, bias)


def alds_layers(problem: NetworkProblem, cuts: Cuts) -> list[AldsLayer]:
    """Return the targeted layers with their cuts, shared by all compressions of a problem.

    Raises
    ------
    LowRankError
        When calibration data are needed and absent.
    """
    if problem.budget == "latency":  # whose costs are learned while networks are tried
        cuts = replace(cuts, max_groups=cuts.max_groups or problem.timing.max_groups)
        return [_make(problem, own, cuts) for own in problem.layers]
    return problem.cached(
        ("alds", cuts, problem.budget),
        lambda: [_make(problem, own, cuts) for own in problem.layers],
    )


def _make(problem: NetworkProblem, layer: Layer, cuts: Cuts) -> AldsLayer:
    module = problem.model.get_submodule(layer.name)
    weight = module.weight.detach().cpu().reshape(kernel_shape(layer.shape))
    moments: Moments | None = None
    tokens: Tensor | None = None
    scaled = weight
    if cuts.error in DATA and layer.kind == "embedding":
        tokens = token_use(problem).to(torch.float64)
        scaled = weight * tokens.sqrt().reshape(-1, 1, 1, 1)
    elif cuts.error in DATA:
        moments = input_moments(problem)[layer.name]
    schemes = _schemes(problem, layer, module, cuts)
    slices = {scheme: _slices(problem, layer, scaled, scheme, cuts) for scheme in schemes}
    whitened = None
    if moments is not None:
        covariance = shrunk(moments.covariance(), moments.count)
        weights: dict[str, Any] = {}
        if cuts.error == "loss":
            weights["gradients"] = output_gradients(problem)[layer.name]
            weights["scale"] = moments.positions / 2
        whitened = Whitened(weight, covariance, **weights)
    costs = _costs(problem, layer, has_bias=layer.has_bias or moments is not None)
    candidates = candidates_of(slices, costs, cuts, whitened)
    if cuts.error == "loss" and tokens is not None:
        candidates = _in_nats(candidates, problem, layer, slices[0])
    mean = None if moments is None else moments.mean
    return AldsLayer(layer, weight, candidates, slices, whitened, mean, tokens)


def _in_nats(
    candidates: Candidates, problem: NetworkProblem, layer: Layer, slices: Slices
) -> Candidates:
    """Return an embedding's cuts with errors in units of the loss, all directions alike."""
    gradients = output_gradients(problem)[layer.name]
    squares = float(slices.values(1).square().sum()) * float(gradients.trace()) / len(gradients)
    length = (squares / 2) ** 0.5
    cuts = [replace(cut, curve=Curve.known(length * cut.curve.all())) for cut in candidates.cuts]
    return replace(candidates, cuts=cuts)


def candidates_of(
    slices: Mapping[int, Slices], costs: Costs, cuts: Cuts, whitened: Whitened | None = None
) -> Candidates:
    """Return what a layer can become: for every cut the ranks that cost less than the layer.

    Parameters
    ----------
    slices
        For each folding scheme the slices of the weight.
    costs
        What the layer and its cuts cost.
    whitened
        The slices under the covariance of the inputs, for the error `data`.
    """
    found = []
    for scheme, own in slices.items():
        # Slices of many groups are the cheapest to look at, and bound those of few.
        for groups in reversed([1] if costs.embedding else _groups(own.shape[1], cuts)):
            ranks, prices = costs.paying(own, groups, cuts.align)
            if len(ranks):
                curve = _curve(cuts.error, own, whitened, groups, ranks)
                found.append(Cut(scheme, groups, ranks, prices, curve))
    return Candidates(costs.dense, found)


def _costs(problem: NetworkProblem, layer: Layer, has_bias: bool) -> Costs:
    embedding = layer.kind == "embedding"
    if problem.budget == "latency":
        dense = problem.timing.dense_seconds(problem)[layer.name]
        seconds = partial(problem.timing.rank_seconds, problem, layer)
        return Costs(dense, embedding=embedding, seconds=seconds)
    if problem.budget == "macs":
        return Costs(layer.macs, 0, layer.positions, embedding, looked_up=embedding)
    fixed = layer.shape[0] if has_bias and not embedding else 0
    return Costs(layer.parameters, fixed, 1, embedding)


def _slices(
    problem: NetworkProblem, layer: Layer, weight: Tensor, scheme: int, cuts: Cuts
) -> Slices:
    """Return the slices of a weight; without data all errors and budgets share them."""
    if cuts.error in DATA:
        return Slices(weight, scheme)
    return problem.cached(("slices", layer.name, scheme), lambda: Slices(weight, scheme))


def _curve(
    error: str, slices: Slices, whitened: Whitened | None, groups: int, ranks: np.ndarray
) -> Curve:
    if whitened is not None:
        return whitened.curve(groups, ranks)
    return (frobenius if error in DATA else ERRORS[error])(slices, groups, ranks)


def _groups(channels: int, cuts: Cuts) -> list[int]:
    if cuts.groups is not None:
        return [nearest_divisor(channels, cuts.groups)]
    return [k for k in divisors(channels) if k <= (cuts.max_groups or channels)]


def _schemes(
    problem: NetworkProblem, layer: Layer, module: nn.Module, cuts: Cuts
) -> tuple[int, ...]:
    """Return the folding schemes that differ for a layer, and whose cost is known.

    Schemes 1 to 3 run the encoder at the size of the input; their multiply-adds follow from the
    output's only where the layer keeps the size.
    """
    if layer.kind != "conv" or layer.shape[2:] == (1, 1) or cuts.error in DATA:
        return (0,)
    if problem.budget == "macs" and not _keeps_size(module):
        return (0,)
    return tuple(scheme for scheme in SCHEMES if scheme in cuts.schemes)


def _keeps_size(module: Any) -> bool:
    if tuple(module.stride) != (1, 1):
        return False
    if isinstance(module.padding, str):
        return module.padding == "same"
    axes = zip(module.padding, module.dilation, module.kernel_size, strict=True)
    return all(2 * padding == dilation * (size - 1) for padding, dilation, size in axes)
