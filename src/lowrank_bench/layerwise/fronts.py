"""Rank and bits of every layer together: its forms with their sizes and measured errors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.layerwise.approximators import METRICS, candidates
from lowrank_bench.layerwise.candidates import Candidate, bias_bytes, layer_matrix
from lowrank_bench.layerwise.fitted import spread
from lowrank_bench.layerwise.forms import (
    WHOLE,
    Form,
    decoded,
    dense_form,
    encode,
    half_form,
    pair_form,
    rounded_form,
    rows_of,
    stored_layer,
)
from lowrank_bench.layerwise.spectra import Metric, MetricSpectrum
from lowrank_bench.layerwise.weighing import relative, table_weights, weighed
from lowrank_bench.linalg.coding.coder import use_weights
from lowrank_bench.network.allocate import Options
from lowrank_bench.network.knapsack import Division, divide
from lowrank_bench.network.layers import Layer, replaced
from lowrank_bench.network.moments import token_use
from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem

FURTHER = {"relative": relative}  # metrics that use what is known of codes
ROUNDED = tuple((bits, group) for bits in (2, 3, 4, 5, 6, 8) for group in (WHOLE, 128, 32))
PAIRS = ((3, 32), (4, 32), (6, 128), (8, WHOLE))  # bits and groups of two factors
RANKS = 10  # that are tried, denser at the low end
# Bits an entry of a transform code: of a layer, and of a table, whose rows differ in use.
LAYER_RATES = (1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7)
TABLE_RATES = (0.4, 0.48, 0.64, 0.8, 0.96, 1.28, 1.6, 2.24, 3.2, 4.8)


@dataclass(frozen=True, eq=False)
class Front:
    """The forms of one layer.

    Attributes
    ----------
    candidate
        The layer with its low-rank approximations in the method's metric.
    forms
        In any order; the last one is dense.
    errors
        Squared error of each in the metric, measured on the decoded matrix.
    """

    candidate: Candidate
    metric: Metric
    forms: list[Form]
    errors: list[float]

    def options(self, problem: NetworkProblem) -> Options:
        """Return bytes, with those of the bias, and errors."""
        layer = self.candidate.layer
        bias = bias_bytes(problem, self.candidate)
        extra = np.full(len(self.forms), float(self.candidate.biases * bias))
        dense = layer.shape[0] * layer.has_bias  # which gets no new bias
        extra[-1] = dense * problem.sizes.bias[layer.name]
        sizes = np.array([float(form.n_bytes) for form in self.forms])
        return Options(sizes + extra, np.array(self.errors))


def compress_jointly(
    problem: NetworkProblem, compression: float, metric: str, coded: bool = True
) -> CompressedNetwork:
    """Return the network with rank and bits of every layer chosen together, exactly.

    Parameters
    ----------
    compression
        Share of the network's bytes to save.
    metric
        One of `approximators.METRICS` or `FURTHER`: in which errors are measured and added.
    coded
        Whether transform codes are among the forms.

    Raises
    ------
    LowRankError
        When the budget is out of reach, or data are needed and missing.
    """
    fronts = problem.cached(
        ("fronts", metric, coded, problem.rest), lambda: _fronts(problem, metric, coded)
    )
    options = [front.options(problem) for front in fronts]
    budget = problem.allowance(compression)
    check_reachable(problem, options, budget)
    division = divide(options, budget)
    new, rows = {}, []
    for front, option in zip(fronts, division.chosen, strict=True):
        layer, form = front.candidate.layer, front.forms[option]
        share = front.errors[option] / max(float(front.candidate.spectrum.squares[0]), 1e-300)
        row = {"name": layer.name, "shape": list(layer.shape), **form.facts()}
        rows.append({**row, "error": share**0.5})
        if form.kind != "dense":
            codes = _codes(problem, front.candidate, form)
            new[layer.name] = stored_layer(problem, layer, codes, _shift(problem, front, codes))
    return CompressedNetwork(replaced(problem.model, new), rows, division_facts(division, budget))


def division_facts(division: Division, budget: float) -> dict[str, Any]:
    """Return what a report says of a division: its total error, and the least there can be."""
    return {
        "objective": division.error,
        "lower_bound": division.bound,
        "lp_bound": division.lp_bound,
        "budget": budget,
        "spent": division.spent,
    }


def check_reachable(
    problem: NetworkProblem, options: Sequence[Options], budget: float, more: int = 0
) -> None:
    """Refuse a budget below the smallest forms of all layers, and `more` bytes beside them."""
    least = sum(float(layer.cost.min()) for layer in options) + more
    if least > budget:
        raise LowRankError(
            "the budget is below the smallest forms of all layers; the largest share of bytes "
            f"that can be saved here is {problem.reachable(least):.4f}"
        )


def _fronts(problem: NetworkProblem, name: str, coded: bool) -> list[Front]:
    """Return the forms of every layer with their errors."""
    fronts = []
    for candidate in candidates(problem, name, FURTHER):
        layer = candidate.layer
        metric, _ = {**METRICS, **FURTHER}[name](problem, layer)
        spectrum = candidate.spectrum
        assert isinstance(spectrum, MetricSpectrum)
        matrix = layer_matrix(problem, layer).float()
        forms: list[Form] = []
        errors: list[float] = []
        for form in _forms(problem, candidate, coded):
            # No matrix of this rank errs less, so that bits cannot mend a rank that is too low.
            low = 0.0 if form.rank is None else float(spectrum.squares[form.rank])
            if form.rank is not None and _beaten(form, low, forms, errors):
                continue
            approximation = decoded(_codes(problem, candidate, form))
            if layer.kind == "embedding":
                approximation = approximation.T
            forms.append(form)
            errors.append(max(weighed(metric, spectrum.root, matrix - approximation), low))
        dense = dense_form(problem, layer)
        fronts.append(Front(candidate, metric, [*forms, dense], [*errors, 0.0]))
    return fronts


def _beaten(form: Form, least: float, forms: Sequence[Form], errors: Sequence[float]) -> bool:
    """Return whether a form of no more bytes errs less than this one can."""
    pairs = zip(forms, errors, strict=True)
    return any(other.n_bytes <= form.n_bytes and error <= least for other, error in pairs)


def _forms(problem: NetworkProblem, candidate: Candidate, coded: bool) -> Iterator[Form]:
    """Yield the forms to try: those of full rank first, which exclude many of the others."""
    layer = candidate.layer
    shape = layer.matrix_shape
    entries = shape[0] * shape[1]
    yield half_form(rows_of(problem, layer))
    yield from _distinct(rounded_form(shape, bits, group) for bits, group in ROUNDED)
    if coded:
        rates = TABLE_RATES if layer.kind == "embedding" else LAYER_RATES
        least = 4 * sum(shape) + 256  # below, the tables of a code leave no room for the rows
        sizes = (int(rate * entries / 8) for rate in rates)
        yield from (Form("transform", size) for size in sizes if size > least)
    if layer.kind != "embedding":
        most = min(shape)
        ranks = [rank for rank in spread(most, RANKS) if 0 < rank < most]
        pairs = (pair_form(shape, rank, *bits) for rank in ranks for bits in PAIRS)
        yield from _distinct(pairs)


def _distinct(forms: Iterator[Form]) -> Iterator[Form]:
    """Yield forms without those that are the same in a narrow matrix: a group is then a row."""
    seen = set()
    for form in forms:
        key = form.kind, form.bits, form.rank, form.n_bytes
        if key not in seen:
            seen.add(key)
            yield form


def _codes(problem: NetworkProblem, candidate: Candidate, form: Form) -> list[Any]:
    """Return the codes of a layer in a form."""
    layer = candidate.layer
    factors = None if form.rank is None else candidate.spectrum.factors(form.rank)
    weights = _use(problem, layer) if layer.kind == "embedding" else None
    return encode(form, rows_of(problem, layer), factors=factors, weights=weights)


def _use(problem: NetworkProblem, layer: Layer) -> Tensor:
    """Return the weights of a table's rows: by calibration texts where there are some."""
    if problem.batches is None or "frequency" in problem.row_facts:
        return table_weights(problem, layer)
    return use_weights(token_use(problem))


def _shift(problem: NetworkProblem, front: Front, codes: Sequence[Any]) -> Tensor | None:
    """Return what keeps a layer's response to its mean input, or None."""
    candidate = front.candidate
    if candidate.mean is None:
        return None
    matrix = rows_of(problem, candidate.layer)
    return (matrix - decoded(codes).double()) @ candidate.mean
