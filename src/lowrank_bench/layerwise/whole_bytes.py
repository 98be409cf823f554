"""Whole networks in bytes, each layer in one kind of code: rounded alike, or transform codes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.layerwise.forms import (
    WHOLE,
    Form,
    decoded,
    encode,
    half_form,
    rounded_form,
    rows_of,
    stored_layer,
)
from lowrank_bench.layerwise.fronts import check_reachable, division_facts
from lowrank_bench.layerwise.weighing import TABLE, table_weights
from lowrank_bench.linalg.coding.coded import Coded, relative_error
from lowrank_bench.linalg.coding.fitting import GROUPS
from lowrank_bench.linalg.coding.packing import MOST
from lowrank_bench.linalg.coding.planning import predicted_errors
from lowrank_bench.linalg.coding.rounding import Scale
from lowrank_bench.network.allocate import Options
from lowrank_bench.network.knapsack import divide
from lowrank_bench.network.layers import Layer, replaced
from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem
from lowrank_bench.problem import require_bytes

# Bits an entry at which the error of a transform code is planned, and those in between.
PLANNED = np.array([0.25, 0.35, 0.5, 0.7, 1, 1.4, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 6.5, 7])
FINE = np.arange(0.25, 7.0001, 0.0625)
TRIAL = 3.0  # bits an entry at which a layer's plan is compared with a code


def compress_rounded(
    problem: NetworkProblem,
    compression: float,
    bits: int | None,
    group: int | None,
    scale: Scale,
    table: str,
) -> CompressedNetwork:
    """Return the network with every layer rounded to the same bits, with the same groups.

    Parameters
    ----------
    bits, group
        What is fixed, `WHOLE` for whole rows; None for the best that fits, by the sum of the shares
        of squared norm that are lost.
    table
        `rtn`: the embedding is rounded alike; `transform_code`: it gets what the others leave.

    Raises
    ------
    LowRankError
        When nothing fits the budget.
    """
    require_bytes("rtn", problem.budget)
    budget = problem.allowance(compression)
    inner = [layer for layer in problem.layers if _is_rounded(layer, table)]
    rest = [layer for layer in problem.layers if layer not in inner]
    plans = []
    groups = (WHOLE, GROUPS[0]) if rest else (WHOLE, *reversed(GROUPS))
    for size in groups if group is None else (group,):
        for depth in range(MOST, 0, -1) if bits is None else (bits,):
            forms = [rounded_form(layer.matrix_shape, depth, size) for layer in inner]
            left = budget - sum(form.n_bytes for form in forms) - _biases(problem)
            if left >= (sum(layer.shape[0] for layer in rest) if rest else 0):
                plans.append((forms, int(left)))
                if not rest:  # more bits of the same groups are never worse
                    break
    if not plans:
        forms = [rounded_form(layer.matrix_shape, bits or 1, group or WHOLE) for layer in inner]
        least = sum(form.n_bytes for form in forms) + _biases(problem)
        raise LowRankError(
            f"rounding to {bits or 1} bits does not fit; the largest share of bytes that it saves "
            f"here is {problem.reachable(least):.4f}"
        )
    trials = [_tried(problem, inner, forms, left, rest, scale) for forms, left in plans]
    best = min(trials, key=lambda trial: trial[0])
    if best[0] == float("inf"):
        raise LowRankError("the rounded layers leave too few bytes for the table; save less")
    return _built(problem, [*best[1], *_tables(problem, rest, best[2])], {"objective": best[0]})


def compress_transformed(
    problem: NetworkProblem, compression: float, weights: str, alpha: float, bands: int
) -> CompressedNetwork:
    """Return the network in transform codes, the bytes divided by what they promise.

    The sum of the shares of squared norm that are lost is least (`weighing.relative`), for errors
    that are planned by `predicted_errors` and scaled to those of one code of each layer.

    Parameters
    ----------
    weights, alpha, bands
        Of the table: where the use of its rows comes from, its exponent, and groups of rows.

    Raises
    ------
    LowRankError
        When the budget is out of reach, or facts about the table's rows are missing.
    """
    require_bytes("transform_code", problem.budget)
    plans = problem.cached(
        ("plans", weights, alpha, bands),
        lambda: [_planned(problem, layer, weights, alpha, bands) for layer in problem.layers],
    )
    check_reachable(problem, plans, problem.allowance(compression), _biases(problem))
    budget = problem.allowance(compression) - _biases(problem)
    division = divide(plans, budget)
    made = []
    left = int(budget - division.spent)
    for layer, plan, option in zip(problem.layers, plans, division.chosen, strict=True):
        last = option == len(plan.cost) - 1  # halves
        form = Form("half" if last else "transform", int(plan.cost[option]))
        matrix, use = rows_of(problem, layer), None
        if layer.kind == "embedding":
            use = table_weights(problem, layer, weights, alpha)
            if not last:  # a table takes any number of bytes
                form = Form("transform", form.n_bytes + left)
        made.append((layer, form, encode(form, matrix, weights=use, bands=bands)))
    return _built(problem, made, division_facts(division, budget))


Made = tuple[Layer, Form, Sequence[Coded]]


def _is_rounded(layer: Layer, table: str) -> bool:
    return layer.kind != "embedding" or table == "rtn"


def _biases(problem: NetworkProblem) -> int:
    """Return the bytes of the biases of all layers."""
    sizes = problem.sizes.bias
    return sum(sizes[layer.name] * layer.shape[0] for layer in problem.layers if layer.has_bias)


def _tried(
    problem: NetworkProblem,
    layers: Sequence[Layer],
    forms: Sequence[Form],
    left: int,
    rest: Sequence[Layer],
    scale: Scale,
) -> tuple[float, list[Made], int]:
    """Return the total error of a plan, the codes of the rounded layers, and what is left."""
    total = 0.0
    made: list[Made] = []
    for layer, form in zip(layers, forms, strict=True):
        matrix = rows_of(problem, layer)
        key = ("rounded", layer.name, form.bits, form.group, scale)
        codes = problem.cached(key, lambda: encode(form, matrix, scale=scale))  # noqa: B023
        total += relative_error(matrix, codes[0]) ** 2 * (TABLE if layer.kind == "embedding" else 1)
        made.append((layer, form, codes))
    for layer in rest:
        use = table_weights(problem, layer)
        total += TABLE * predicted_errors(rows_of(problem, layer), use, [left])[0]
    return total, made, left


def _tables(problem: NetworkProblem, rest: Sequence[Layer], left: int) -> list[Made]:
    """Return the transform code of the table, where it is not rounded."""
    made: list[Made] = []
    for layer in rest:
        form, use = Form("transform", left), table_weights(problem, layer)
        made.append((layer, form, encode(form, rows_of(problem, layer), weights=use)))
    return made


def _planned(
    problem: NetworkProblem, layer: Layer, source: str, alpha: float, bands: int
) -> Options:
    """Return sizes and planned errors of a layer's transform codes; the last option is halves."""
    matrix, is_table = rows_of(problem, layer), layer.kind == "embedding"
    use = table_weights(problem, layer, source, alpha) if is_table else torch.ones(len(matrix))
    entries = matrix.numel()
    fixed = _tables_of_code(layer, bands if is_table else 1)
    sizes = [int(rate * entries / 8) + fixed for rate in PLANNED]
    options = (bands, True) if is_table else (1, False)
    errors = np.array(predicted_errors(matrix, use, sizes, *options))
    known = np.isfinite(errors)
    half = half_form(matrix).n_bytes
    if not known.any() or not errors[known].any():  # too small for a code, or all zeros
        return Options(np.array([float(half)]), np.array([0.0]))
    logs = np.log(np.maximum(errors[known], 1e-12))
    least = float(PLANNED[known].min())
    rates = FINE[np.greater_equal(FINE, least)]
    between = np.exp(np.interp(rates, PLANNED[known], logs))
    cost = np.floor(rates * entries / 8) + fixed
    kept = cost < half
    trial = int(np.argmin(np.abs(rates - TRIAL)))
    code = encode(
        Form("transform", int(cost[trial])), matrix, weights=use if is_table else None, bands=bands
    )
    ratio = relative_error(matrix, code[0], use) ** 2 / max(float(between[trial]), 1e-12)
    ratio *= TABLE if is_table else 1.0
    return Options(
        np.append(cost[kept], float(half)), np.append(between[kept] * max(ratio, 1e-12), 0.0)
    )


def _tables_of_code(layer: Layer, bands: int) -> int:
    """Return about the bytes of a transform code that do not grow with its bits."""
    rows, columns = layer.matrix_shape
    gains, labels = rows // 2, rows * (bands - 1).bit_length() // 8
    return 64 + gains + labels + 2 * columns + bands * 2 * columns


def _built(
    problem: NetworkProblem, made: Sequence[Made], info: dict[str, Any]
) -> CompressedNetwork:
    """Return the network with these layers, and a row for each."""
    new: dict[str, nn.Module] = {}
    rows = {}
    for layer, form, codes in made:
        new[layer.name] = stored_layer(problem, layer, codes)
        facts = {"name": layer.name, "shape": list(layer.shape), **form.facts()}
        facts["error"] = _share(rows_of(problem, layer), codes)
        rows[layer.name] = facts | {"bytes": sum(code.n_bytes for code in codes)}
    order = [rows[layer.name] for layer in problem.layers]
    info |= {"shares": sum(row["error"] ** 2 for row in order)}
    return CompressedNetwork(replaced(problem.model, new), order, info)


def _share(matrix: Tensor, codes: Sequence[Coded]) -> float:
    """Return ‖W − Ŵ‖ / ‖W‖."""
    if len(codes) == 1:
        return relative_error(matrix, codes[0])
    size = float(matrix.norm())
    return float((matrix - decoded(codes).double()).norm()) / size if size > 0 else 0.0
