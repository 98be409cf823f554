"""The forms in which a layer is stored in bytes: rounded, two rounded factors, coded, or halved."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_bench.layers.coded_weight import coded_layer
from lowrank_bench.layers.embedding import compressed_embedding
from lowrank_bench.linalg.coding.coded import Coded
from lowrank_bench.linalg.coding.coder import BANDS, transform_code
from lowrank_bench.linalg.coding.fitting import rounding_bytes
from lowrank_bench.linalg.coding.half import to_half
from lowrank_bench.linalg.coding.rounding import Scale, round_to_nearest
from lowrank_bench.network.layers import Layer, bias_of, weight_of
from lowrank_bench.network.problem import NetworkProblem

WHOLE = 0  # in `Form.group`: one scale for a whole row


@dataclass(frozen=True)
class Form:
    """How the matrix of a layer is stored.

    Attributes
    ----------
    kind
        `dense`, `half` (16 bits), `rounded`, `pair` (two rounded factors) or `transform`.
    n_bytes
        Of the weight, without the bias.
    bits, group
        Of a rounded matrix or factor; `WHOLE`: one scale for a row.
    rank
        Of two factors.
    """

    kind: str
    n_bytes: int
    bits: int | None = None
    group: int | None = None
    rank: int | None = None

    def facts(self) -> dict[str, Any]:
        """Return what a report says of it, as JSON values."""
        values = {"form": self.kind, "rank": self.rank, "bits": self.bits, "bytes": self.n_bytes}
        return values | {"group": "row" if self.group == WHOLE else self.group}


def rows_of(problem: NetworkProblem, layer: Layer) -> Tensor:
    """Return the weight as it is coded, row by row: f×(c·k1·k2), out×in or n×d, float64."""
    weight = weight_of(problem.model.get_submodule(layer.name)).detach()
    return weight.reshape(layer.matrix_shape).to("cpu", torch.float64)


def dense_form(problem: NetworkProblem, layer: Layer) -> Form:
    """Return the form that leaves a layer as it is."""
    rows, columns = layer.matrix_shape
    return Form("dense", rows * columns * problem.sizes.number[layer.name])


def half_form(matrix: Tensor) -> Form:
    """Return the form of 16 bits."""
    return Form("half", to_half(matrix, "fp16").n_bytes)


def rounded_form(shape: tuple[int, int], bits: int, group: int) -> Form:
    """Return the form of a rounded matrix n×d."""
    rows, columns = shape
    size = rounding_bytes(rows, columns, bits, min(group or columns, columns))
    return Form("rounded", size, bits, group)


def pair_form(shape: tuple[int, int], rank: int, bits: int, group: int) -> Form:
    """Return the form of two rounded factors k×d and k×n of a matrix n×d."""
    rows, columns = shape
    size = sum(
        rounding_bytes(rank, width, bits, min(group or width, width)) for width in (rows, columns)
    )
    return Form("pair", size, bits, group, rank)


def encode(
    form: Form,
    matrix: Tensor,
    *,
    factors: tuple[Tensor, Tensor] | None = None,
    weights: Tensor | None = None,
    scale: Scale = "least_squares",
    bands: int = BANDS,
) -> list[Coded]:
    """Return the codes of a matrix n×d in a form other than `dense`.

    Parameters
    ----------
    factors
        For `pair`: n×k and k×d.
    weights
        For `transform`: of the rows of a table, whose code has a basis. None for other layers,
        whose codes have none: it would cost as much as it saves.
    scale
        Of what is rounded.
    bands
        Of a table's transform code.
    """
    if form.kind == "half":
        return [to_half(matrix, "fp16")]
    if form.kind == "transform" and weights is None:
        ones = torch.ones(len(matrix))
        return [transform_code(matrix, ones, form.n_bytes, bands=1, basis="none")[0]]
    if form.kind == "transform":
        assert weights is not None
        return [transform_code(matrix, weights, form.n_bytes, bands=bands)[0]]
    assert form.bits is not None
    group = form.group or None
    if form.kind == "rounded":
        return [round_to_nearest(matrix, form.bits, group, scale)]
    assert form.kind == "pair"
    assert factors is not None
    left, right = factors
    parts = (right, left.T.contiguous())
    return [round_to_nearest(part, form.bits, group, scale) for part in parts]


def decoded(codes: Sequence[Coded]) -> Tensor:
    """Return the matrix n×d float32 of one code, or of two factors k×d and k×n."""
    first = codes[0].dense()
    return first if len(codes) == 1 else codes[1].dense().T @ first


def stored_layer(
    problem: NetworkProblem, layer: Layer, codes: Sequence[Coded], shift: Tensor | None = None
) -> nn.Module:
    """Return the layer that replaces a dense one.

    Parameters
    ----------
    shift
        Added to the bias: tensor of the number of outputs, or None.
    """
    dense = problem.model.get_submodule(layer.name)
    if layer.kind == "embedding":
        return compressed_embedding(dense, codes[0])
    bias, old = shift, bias_of(dense)
    if shift is not None and old is not None:
        bias = shift + old.detach().to(shift)
    return coded_layer(dense, codes, bias)
