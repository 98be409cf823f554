"""The layers of a network as ALDS cuts them: costs and errors of all cuts, and the new layers.

Every layer is treated as a convolution f×c×k1×k2; an embedding n×d as f = n, c = d, uncut.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowrank_bench.alds.curves import Curve, Floats
from lowrank_bench.alds.errors import ERRORS, Ranks, frobenius
from lowrank_bench.alds.search import Candidates, Choice, Cut
from lowrank_bench.alds.slices import Slices
from lowrank_bench.alds.whitened import Whitened, mean_shift, shrunk
from lowrank_bench.layers.fold import (
    SCHEMES,
    Shape,
    divisors,
    kernel_shape,
    nearest_divisor,
    weights_per_rank,
)
from lowrank_bench.network.gradients import output_gradients
from lowrank_bench.network.layers import Layer, weight_of
from lowrank_bench.network.moments import Moments, input_moments, token_use
from lowrank_bench.network.problem import NetworkProblem
from lowrank_bench.network.replacement import factorized_layer

DATA = ("data", "loss")  # errors that need calibration inputs


@dataclass(frozen=True)
class Cuts:
    """Which cuts are considered.

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
        Ranks are multiples of this number.
    """

    error: str
    groups: int | None = None
    max_groups: int | None = None
    schemes: tuple[int, ...] = (0,)
    align: int = 1


@dataclass(frozen=True)
class Costs:
    """The costs of a layer and of its cuts.

    Attributes
    ----------
    dense
        Cost of the dense layer.
    fixed
        Cost of a cut in addition to its factors: the bias.
    positions
        Cost of one weight: 1 parameter, or the multiply-adds at all positions.
    embedding
        Whether the layer is an embedding, which is not cut into groups.
    looked_up
        Whether the left factor is looked up, which multiplies nothing.
    seconds
        Returns the measured cost at every rank, float64, for a folding scheme and a number of
        groups; None if the cost is `fixed` plus `unit` times the rank.
    """

    dense: float
    fixed: int = 0
    positions: int = 1
    embedding: bool = False
    looked_up: bool = False
    seconds: Callable[[int, int], Floats] | None = None

    def unit(self, shape: Shape, scheme: int, groups: int) -> int:
        """Return the cost of one unit of rank."""
        weights = shape[1] if self.looked_up else weights_per_rank(shape, scheme, groups)
        return weights * self.positions

    def paying(self, slices: Slices, groups: int, align: int) -> tuple[Ranks, Floats]:
        """Return the ranks that cost less than the dense layer, rising, and the cost of each.

        They are multiples of `align`, without those that cost as much as a larger one.
        """
        if self.seconds is not None:
            seconds = self.seconds(slices.scheme, groups)[align - 1 :: align]
            # The least seconds of any larger rank: kernels make some large ranks faster.
            above = np.append(np.minimum.accumulate(seconds[::-1])[::-1][1:], self.dense)
            kept = np.flatnonzero(seconds < np.minimum(above, self.dense))
            return align * (kept + 1), seconds[kept]
        unit = self.unit(slices.shape, slices.scheme, groups)
        most = min(int(-(-(self.dense - self.fixed) // unit)) - 1, slices.ranks(groups))
        ranks = np.arange(align, most + 1, align, dtype=np.int64)
        costs: Floats = self.fixed + float(unit) * ranks.astype(np.float64)
        return ranks, costs


@dataclass(frozen=True, eq=False)
class AldsLayer:
    """One targeted layer with all its cuts.

    Attributes
    ----------
    layer
        The layer.
    weight
        Tensor f×c×k1×k2, its values.
    candidates
        Costs and errors of its cuts.
    slices
        The slices of the weight for each scheme.
    whitened
        The slices under the covariance of the inputs, for the errors `data` and `loss`.
    mean
        Mean input; the new bias keeps the response to it. None for other errors.
    tokens
        Use of each row, for embeddings and the errors `data` and `loss`.
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
        if self.tokens is not None:  # the slices are those of the weighted table
            vectors = self.slices[0].bases(1).vectors[0, :rank]
            return (self.weight.flatten(1).double() @ vectors.T)[None], vectors[None]
        return self.slices[cut.scheme].factors(cut.groups, rank)

    def replacement(self, dense: nn.Module, choice: Choice) -> nn.Module:
        """Return the layer that replaces `dense`."""
        assert choice.cut is not None
        left, right = self.factors(choice)
        if self.layer.kind == "embedding":
            return factorized_layer(dense, left[0], right[0])
        shift = None
        if self.mean is not None:
            product = torch.cat(list(left @ right), dim=1)
            shift = mean_shift(self.weight, product, self.mean)
        return factorized_layer(dense, left, right, choice.cut.scheme, shift)


def alds_layers(problem: NetworkProblem, cuts: Cuts) -> list[AldsLayer]:
    """Return the targeted layers with their cuts, shared by all compressions of a problem.

    Raises
    ------
    LowRankError
        When calibration data are needed and missing.
    """
    if problem.budget == "latency":  # costs change while networks are tried, so nothing is cached
        cuts = replace(cuts, max_groups=cuts.max_groups or problem.timing.max_groups)
        return [_make(problem, layer, cuts) for layer in problem.layers]
    return problem.cached(
        ("alds", cuts, problem.budget, problem.rest),
        lambda: [_make(problem, layer, cuts) for layer in problem.layers],
    )


def _make(problem: NetworkProblem, layer: Layer, cuts: Cuts) -> AldsLayer:
    """Return a layer with the costs and errors of all its cuts."""
    module = problem.model.get_submodule(layer.name)
    weight = weight_of(module).detach().cpu().reshape(kernel_shape(layer.shape))
    moments: Moments | None = None
    tokens: Tensor | None = None
    scaled = weight
    if cuts.error in DATA and layer.kind == "embedding":
        # A look-up is a product with a unit vector, so the use of the rows is a diagonal moment.
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
        if cuts.error == "loss":  # half the Fisher information: see layerwise's `two_sided`
            weights["gradients"] = output_gradients(problem)[layer.name]
            weights["scale"] = moments.positions / 2
        whitened = Whitened(weight, covariance, **weights)
    # With moments, every cut gets a bias that keeps the mean response.
    costs = _costs(problem, layer, has_bias=layer.has_bias or moments is not None)
    candidates = candidates_of(slices, costs, cuts, whitened)
    if cuts.error == "loss" and tokens is not None:
        candidates = _in_nats(candidates, problem, layer, slices[0])
    mean = None if moments is None else moments.mean
    return AldsLayer(layer, weight, candidates, slices, whitened, mean, tokens)


def _in_nats(
    candidates: Candidates, problem: NetworkProblem, layer: Layer, slices: Slices
) -> Candidates:
    """Return an embedding's cuts with errors in units of the loss, equal in all directions."""
    gradients = output_gradients(problem)[layer.name]
    # Relative errors become absolute: times the norm of the table and the mean gradient.
    squares = float(slices.values(1).square().sum()) * float(gradients.trace()) / len(gradients)
    length = (squares / 2) ** 0.5
    cuts = [replace(cut, curve=Curve.known(length * cut.curve.all())) for cut in candidates.cuts]
    return replace(candidates, cuts=cuts)


def candidates_of(
    slices: Mapping[int, Slices], costs: Costs, cuts: Cuts, whitened: Whitened | None = None
) -> Candidates:
    """Return the options of a layer: every cut at the ranks that cost less than the dense layer.

    Parameters
    ----------
    slices
        The slices of the weight for each folding scheme.
    costs
        The costs of the layer and of its cuts.
    whitened
        The slices under the covariance of the inputs, for the errors `data` and `loss`.
    """
    candidates = []
    for scheme, parts in slices.items():
        # Many groups first: their slices are the cheapest to decompose, and bound those of few.
        for groups in reversed([1] if costs.embedding else _groups(parts.shape[1], cuts)):
            ranks, prices = costs.paying(parts, groups, cuts.align)
            if len(ranks):
                curve = _curve(cuts.error, parts, whitened, groups, ranks)
                candidates.append(Cut(scheme, groups, ranks, prices, curve))
    return Candidates(costs.dense, candidates)


def _costs(problem: NetworkProblem, layer: Layer, has_bias: bool) -> Costs:
    embedding = layer.kind == "embedding"
    if problem.budget == "latency":
        dense = problem.timing.dense_seconds(problem)[layer.name]
        seconds = partial(problem.timing.rank_seconds, problem, layer)
        return Costs(dense, embedding=embedding, seconds=seconds)
    if problem.budget == "macs":
        return Costs(layer.macs, 0, layer.positions, embedding, looked_up=embedding)
    fixed = layer.shape[0] if has_bias and not embedding else 0
    if problem.budget == "bytes":
        number, bias = problem.sizes.number[layer.name], problem.sizes.bias[layer.name]
        old = layer.shape[0] if layer.has_bias else 0
        dense = (layer.parameters - old) * number + old * bias
        return Costs(dense, fixed * number, number, embedding)  # a new bias may stay whole
    return Costs(layer.parameters, fixed, 1, embedding)


def _slices(
    problem: NetworkProblem, layer: Layer, weight: Tensor, scheme: int, cuts: Cuts
) -> Slices:
    """Return the slices of a weight; errors and budgets without data share them."""
    if cuts.error in DATA:
        return Slices(weight, scheme)
    return problem.cached(("slices", layer.name, scheme), lambda: Slices(weight, scheme))


def _curve(
    error: str, slices: Slices, whitened: Whitened | None, groups: int, ranks: Ranks
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
    """Return the folding schemes that are different for a layer and have a known cost.

    Schemes 1 to 3 apply the encoder at the size of the input. Their multiply-adds are known from
    the number of output positions only if the layer keeps the size.
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
