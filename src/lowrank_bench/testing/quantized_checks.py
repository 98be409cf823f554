"""Checks of `quantize` on a method for matrices: those of codes, and the choice of the bits."""

from typing import Any

import torch
from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.coding.quantized import KINDS
from lowrank_bench.methods import MatrixMethod
from lowrank_bench.methods.quantized import Quantized, quantized
from lowrank_bench.problem import Problem
from lowrank_bench.testing import coding_checks
from lowrank_bench.testing.coding_checks import known
from lowrank_bench.testing.matrix_checks import table

ROWS, COLUMNS = 200, 12
BITS = (2, 3, 4, 6, 8, 16)
SHARE = 0.75  # of the bytes that are saved

CHECKS = (
    coding_checks.check_bytes,
    coding_checks.check_determinism,
    coding_checks.check_impossible_budget,
    coding_checks.check_rows,
    coding_checks.check_save_and_load,
    coding_checks.check_training,
    coding_checks.check_stored_decomposition,
    coding_checks.check_scale,
    coding_checks.check_zero_matrix,
    coding_checks.check_facts,
)


def in_bits(method: MatrixMethod, bits: int | str) -> Quantized:
    """Return a method with its factors in a number of bits, or `auto`."""
    values = {name: getattr(method, name) for name in type(method).model_fields}
    return quantized(type(method))(**values, quantize=bits)


def can_be_quantized(method: MatrixMethod) -> bool:
    """Return whether the method's approximations are of a kind that `quantize` knows."""
    a: Tensor = table(0, ROWS, COLUMNS)
    rank = method.rank_for(ROWS, COLUMNS, 0.5)
    problem = Problem(a, None if method.nested else rank, **_known(method))
    return type(method.decompose(problem).factors(rank)) in KINDS


def check_choice_of_bits(method: MatrixMethod) -> None:
    """Check that no number of bits has a smaller error than `auto`, at the same bytes."""
    info = _info(in_bits(method, "auto"))
    errors: dict[int, float] = {}
    for bits in BITS:
        try:
            single = _info(in_bits(method, bits))
        except LowRankError:
            continue
        errors[bits] = single["weighted_error"]
        assert single["n_bytes"] <= _budget(method)
    listed = {c["bits"]: c["weighted_error"] for c in info["candidates"] if "reason" not in c}
    assert listed == errors
    assert info["weighted_error"] == min(errors.values()) == errors[info["bits"]]
    assert info["n_bytes"] <= _budget(method)


def _budget(method: MatrixMethod) -> int:
    return in_bits(method, 8).size_for(ROWS, COLUMNS, SHARE, "bytes")


def _info(method: Quantized) -> dict[str, Any]:
    size = method.size_for(ROWS, COLUMNS, SHARE, "bytes")
    a = table(0, ROWS, COLUMNS)
    made = method.decompose(Problem(a, size, **_known(method)))
    assert tuple(made.factors(size).dense().shape) == (ROWS, COLUMNS)
    return made.info


def _known(method: MatrixMethod) -> dict[str, Tensor]:
    return {name: torch.as_tensor(value) for name, value in known(method, ROWS).items()}
