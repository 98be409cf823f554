"""What a transform code of some size will lose, without the code: seconds become milliseconds."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.coding.bands import banded, cut
from lowrank_bench.linalg.coding.coded import finite_unit
from lowrank_bench.linalg.coding.coder import BANDS, GAIN_BITS
from lowrank_bench.linalg.coding.sizes import choose_sizes, header_bytes
from lowrank_bench.linalg.coding.trellis import error_curve
from lowrank_bench.linalg.gram import gram


def predicted_errors(
    matrix: Tensor,
    weights: Tensor,
    sizes: Sequence[int],
    bands: int = BANDS,
    rotated: bool = True,
) -> list[float]:
    """Return Σ w_i ‖a_i − b_i‖² / Σ w_i ‖a_i‖² that `coder.transform_code` plans at some sizes.

    Parameters
    ----------
    matrix
        Tensor A, n×d, finite.
    weights
        Tensor w, n ≥ 0 with a positive sum.
    sizes
        Bytes of the codes.
    bands, rotated
        As for `transform_code`: `rotated` stands for `basis="weighted"`, otherwise `"none"`.

    Returns
    -------
    list
        Infinity where a size does not hold a code.
    """
    rows = matrix.double().cpu() / finite_unit(matrix)
    weights = weights.double().cpu()
    weights = weights / weights.sum() * len(weights)
    total = float((weights * rows.square().sum(1)).sum())
    if total == 0:
        return [0.0] * len(sizes)
    rows = rows - ((weights @ rows) / weights.sum()).half().double()
    labels, counts = cut(weights, bands)
    if rotated:
        vectors: Tensor = torch.linalg.eigh(gram(rows, weights.sqrt()))[1]
        rows = rows @ vectors.flip(1)
    energy = banded(rows, weights, labels, len(counts))
    fixed = header_bytes(len(rows), len(counts), GAIN_BITS) + 2 * rows.shape[1]
    curve = error_curve(True)
    errors = []
    for size in sizes:
        try:
            plan = choose_sizes(energy, counts, curve, size - fixed, rotated)
            errors.append(plan.error / total)
        except LowRankError:
            errors.append(float("inf"))
    return errors
