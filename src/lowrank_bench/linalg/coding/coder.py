"""Transform coding: rotate a table, and give every (band, direction) the bits that it earns."""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.linalg.coding.bands import banded, cut, encode_rows
from lowrank_bench.linalg.coding.bits import allocate, rate_distortion_bound
from lowrank_bench.linalg.coding.coded import exponent_of, finite_unit
from lowrank_bench.linalg.coding.flat import (
    logarithmic,
    pack_basis,
    pack_flat,
    to_logarithmic,
    unpack_basis,
)
from lowrank_bench.linalg.coding.mending import mended
from lowrank_bench.linalg.coding.packing import pack
from lowrank_bench.linalg.coding.sizes import NIBBLE, Sizes, choose_sizes, header_bytes
from lowrank_bench.linalg.coding.transform import TransformCodes
from lowrank_bench.linalg.coding.trellis import error_curve
from lowrank_bench.linalg.gram import gram

Basis = Literal["weighted", "plain", "none"]
# Use is turned into weights by this power. Chosen on training pairs of STS-B and MRPC at 95 and
# 98 % saved, by cosines to the dense network's vectors: 0.4 to 0.5 are alike, 0.3 is behind.
POWER = 0.45
BANDS = 16
GAIN_BITS = 4  # of a row in a transform code; `waterfill` has 8
SCALE_BITS = 8


def transform_code(
    matrix: Tensor,
    weights: Tensor,
    n_bytes: int,
    *,
    bands: int = BANDS,
    basis: Basis = "weighted",
    gains: bool = True,
    trellis: bool = True,
) -> tuple[TransformCodes, dict[str, Any]]:
    """Return the transform code of least weighted error Σ w_i ‖a_i − b_i‖² in a budget of bytes.

    Rows minus their mean are turned into eigenvectors of their covariance and cut into bands by
    weight. The energy of each (band, direction) decides its bits, exactly (`bits.allocate`); the
    number of directions and the bits of each basis vector are those that promise least error.

    Parameters
    ----------
    matrix
        Tensor A, n×d, finite, n ≥ 1.
    weights
        Tensor w, n, ≥ 0 with a positive sum.
    n_bytes
        Most bytes; less than one step of the allocation is left, or all have their most bits.
    bands
        Most bands of rows.
    basis
        `weighted` and `plain`: eigenvectors of the covariance with and without weights; `none`.
    gains
        Whether each row is divided by its length, stored in 4 bits.
    trellis
        Whether codes are chosen by `trellis.search`; otherwise by Lloyd–Max quantizers.

    Returns
    -------
    tuple
        The table, and what `_finished` says of it.

    Raises
    ------
    LowRankError
        If the budget does not hold even an empty code, or the input is not as said above.
    """
    rows, weights, unit = _checked(matrix, weights)
    n, d = rows.shape
    mean = ((weights @ rows) / weights.sum()).half()
    rows = rows - mean.double()
    labels, counts = cut(weights, bands)
    vectors = None if basis == "none" else _eigenvectors(rows, weights, basis)
    turned = rows if vectors is None else rows @ vectors.T
    energy = banded(turned, weights, labels, len(counts))
    depth = GAIN_BITS if gains else 0
    left = n_bytes - header_bytes(n, len(counts), depth) - 2 * d
    sizes = choose_sizes(energy, counts, error_curve(trellis), left, vectors is not None)
    parts: dict[str, Any] = {"mean": mean}
    if vectors is not None:
        turned, stored = _rounded_basis(rows, vectors[: sizes.directions], sizes.basis_bits)
        parts |= stored
    code = _assemble(turned, weights, labels, sizes.bits, (d, depth, trellis, unit), parts)
    return _finished(matrix, code, weights, energy, counts, sizes, unit)


def _eigenvectors(rows: Tensor, weights: Tensor, basis: Basis) -> Tensor:
    """Return the eigenvectors of the covariance as rows, d×d, the largest eigenvalue first."""
    square = gram(rows, weights.sqrt() if basis == "weighted" else None)
    vectors: Tensor = torch.linalg.eigh(square)[1]
    return vectors.T.flip(0)


def _rounded_basis(rows: Tensor, vectors: Tensor, bits: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the coefficients of rows along the rounded vectors, and what is stored of these."""
    codes, scales = pack_basis(vectors, bits)
    used = unpack_basis(codes, bits, scales, rows.shape[1]).double()
    stored = {"basis": codes, "basis_scales": scales, "basis_bits": pack_flat(bits, NIBBLE)}
    # Least squares: rounded vectors are no longer orthonormal.
    return rows @ torch.linalg.pinv(used), stored


def use_weights(use: Tensor, power: float = POWER) -> Tensor:
    """Return the weights of rows for a code, use^`power` with sum 1, float64.

    Errors of frequent rows matter less than their use says: texts differ by their rare words.
    """
    weights = use.double().pow(power)
    return weights / weights.sum()


def waterfill(
    matrix: Tensor, weights: Tensor, n_bytes: int, *, bands: int = 64, trellis: bool = False
) -> tuple[TransformCodes, dict[str, Any]]:
    """Return rows rounded to bits that depend on their weight alone: no basis, one scale a row.

    Parameters, results and errors are those of `transform_code`.
    """
    rows, weights, unit = _checked(matrix, weights)
    n, d = rows.shape
    labels, counts = cut(weights, bands)
    energy = banded(rows, weights, labels, len(counts))
    curve = error_curve(trellis)
    left = n_bytes - header_bytes(n, len(counts), 8) - 2 * len(counts)
    if left < 0:
        raise LowRankError(f"{n_bytes} bytes hold no code of {n} rows: allow {-left} more")
    # One more bit for a row of a band costs ⌈d / 8⌉ bytes.
    chosen = allocate(energy.sum(1, keepdim=True), counts * -(-d // 8), curve, left, unit=1)
    sizes = Sizes(d, torch.zeros(0, dtype=torch.long), chosen, chosen.error)
    code = _assemble(rows, weights, labels, sizes.bits, (d, 8, trellis, unit), {})
    return _finished(matrix, code, weights, energy, counts, sizes, unit)


def _checked(matrix: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, float]:
    """Return rows of entries up to one, weights of mean one, and the unit of the rows."""
    if matrix.ndim != 2 or min(matrix.shape) < 1:
        raise LowRankError(f"a table has rows and columns, not the shape {tuple(matrix.shape)}")
    unit = finite_unit(matrix)
    weights = weights.double().cpu()
    total = float(weights.sum())
    if len(weights) != len(matrix) or not 0 < total < math.inf or float(weights.min()) < 0:
        raise LowRankError("weights must be one number >= 0 for each row, and not all zero")
    return matrix.double().cpu() / unit, weights / total * len(weights), unit


def _assemble(
    turned: Tensor,
    weights: Tensor,
    labels: Tensor,
    bits: Tensor,
    form: tuple[int, int, bool, float],
    parts: dict[str, Any],
) -> TransformCodes:
    """Encode coefficients n×r with G×r bits (or G×1 for all directions of a band)."""
    width, depth, trellis, unit = form
    n, r = turned.shape
    gain_grid = torch.zeros(2, dtype=torch.float16)
    if depth:
        codes, gain_grid = to_logarithmic(turned.square().mean(1).sqrt(), depth)
        size = logarithmic(codes, gain_grid).double()
        turned, weights = turned / size.unsqueeze(1), weights * size.square()
        parts = parts | {"gains": pack_flat(codes, depth)}
    # Scales are root mean squares over the rows of a band, which count as their error does.
    energy = banded(turned, weights, labels, len(bits))
    if bits.shape[1] < r:
        energy = energy.mean(1, keepdim=True)
    mass = torch.zeros(len(bits), dtype=torch.float64).index_add_(0, labels, weights)
    spread = (energy / mass.clamp(min=1e-300).unsqueeze(1)).sqrt()
    scales, grid = to_logarithmic(torch.where(bits > 0, spread, 0.0), SCALE_BITS)
    wide = bits.expand(-1, r)
    stream = encode_rows(turned, labels, wide, logarithmic(scales, grid).expand(-1, r), trellis)
    label_bits = (len(bits) - 1).bit_length()
    head = [n, width, r, label_bits, depth, int(trellis), exponent_of(unit)]
    return TransformCodes(
        transform=torch.tensor(head, dtype=torch.int32),
        labels=pack_flat(labels, label_bits),
        table=pack(bits, torch.full((bits.shape[1],), NIBBLE)),
        scales=scales,
        ranges=torch.stack([grid, gain_grid]),
        codes=stream,
        **parts,
    )


def _finished(
    matrix: Tensor,
    code: TransformCodes,
    weights: Tensor,
    energy: Tensor,
    counts: Tensor,
    sizes: Sizes,
    unit: float,
) -> tuple[TransformCodes, dict[str, Any]]:
    """Return the code, mended where rows are worse than their mean, and what is known of it.

    Errors are relative, √(Σ w‖a − b‖² / Σ w‖a‖²).

    `weighted_error` is exact. `predicted_error` is that of the allocation's model, `lp_bound` the
    least of any allocation over the same grid (bands, directions and bits of the basis) in that
    model, and `rate_distortion_bound` the least of any code of as many bits, were the rows of each
    band Gaussian with their covariance. `row_bounds`: the largest ‖a_i − b_i‖ in each band.
    """
    whole = matrix.double().cpu() / unit
    plain, squares = mended(whole, code.with_exponent(code.exponent - exponent_of(unit)), weights)
    code = plain.with_exponent(code.exponent)
    error = float((weights * squares).sum())
    total = float((weights * whole.square().sum(1)).sum())
    worst = torch.zeros(len(counts), dtype=torch.float64)
    worst.scatter_reduce_(0, plain.reading.labels.long(), squares.sqrt(), "amax")
    payload = 8 * code.codes.numel()
    bound = rate_distortion_bound(energy, counts, payload)
    discarded = sizes.error - sizes.allocation.error

    def relative(squares: float) -> float:
        """Return an error as the root of its share of the whole."""
        return math.sqrt(max(squares, 0.0) / total) if total > 0 else 0.0

    facts = {
        "weighted_error": relative(error),
        "predicted_error": relative(sizes.error),
        "lp_bound": relative(sizes.allocation.lp_bound + discarded),
        "rate_distortion_bound": relative(bound),
        "row_bounds": [float(value) * unit for value in worst],
        "band_rows": counts.tolist(),
        "directions": sizes.directions,
        "bits_per_entry": payload / whole.numel(),
        "basis_bits": float(sizes.basis_bits.double().mean()) if len(sizes.basis_bits) else 0.0,
        "n_bytes": code.n_bytes,
    }
    return code.to(device=matrix.device), facts
