"""A linear layer stored as two factors."""

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from lowrank_bench.errors import LowRankError
from lowrank_bench.layers.base import ReplacementLayer, as_parameter


class FactorizedLinear(ReplacementLayer):
    """A linear layer x ↦ `left` (`right` x) + `bias`; with groups, `right` acts on slices of x.

    Parameters
    ----------
    in_features, out_features
        Sizes of the dense layer.
    rank, groups
        j and k: each of k consecutive slices of the inputs has rank j; k divides `in_features`.
    bias
        Whether there is a bias.
    device, dtype
        Of all parameters, whose values are undefined until they are set or loaded.

    Attributes
    ----------
    right
        Parameter (k·j)×(in/k): j rows for each slice of the inputs.
    left
        Parameter out×(k·j).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        groups: int = 1,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if groups < 1 or in_features % groups:
            raise LowRankError(
                f"{groups} groups do not divide {in_features} inputs; take a divisor"
            )
        self.in_features, self.out_features = in_features, out_features
        self.rank, self.groups = rank, groups
        kind: dict[str, Any] = {"device": device, "dtype": dtype}
        self.right = nn.Parameter(torch.empty(groups * rank, in_features // groups, **kind))
        self.left = nn.Parameter(torch.empty(out_features, groups * rank, **kind))
        self.bias = nn.Parameter(torch.empty(out_features, **kind)) if bias else None

    @classmethod
    def from_dense(
        cls, dense: nn.Linear, left: Tensor, right: Tensor, bias: Tensor | None = None
    ) -> Self:
        """Return the layer that replaces `dense`, on its device and in its precision.

        Parameters
        ----------
        left, right
            Tensors k×out×j and k×j×(in/k), one product for each of k consecutive slices of the
            inputs; without the first axis for k = 1.
        bias
            Tensor out that replaces the bias of `dense`.

        Raises
        ------
        LowRankError
            When the shapes do not fit.
        """
        left, right = (part if part.ndim == 3 else part.unsqueeze(0) for part in (left, right))
        groups, outputs, rank = left.shape
        shape = (dense.out_features, dense.in_features)
        fits = right.shape[:2] == (groups, rank) and groups * right.shape[2] == shape[1]
        if not fits or outputs != shape[0]:
            sizes = " and ".join("x".join(map(str, part.shape)) for part in (left, right))
            raise LowRankError(f"factors {sizes} do not fit a linear layer {shape[0]}x{shape[1]}")
        bias = dense.bias if bias is None else bias
        layer = cls(shape[1], shape[0], rank, groups, bias is not None, device="meta")
        layer.right = as_parameter(right.reshape(groups * rank, -1), dense.weight)
        layer.left = as_parameter(left.transpose(0, 1).reshape(outputs, -1), dense.weight)
        if bias is not None:
            layer.bias = as_parameter(bias, dense.weight)
        return layer.train(dense.training)

    def dense_weight(self) -> Tensor:
        """Return the product of the factors, out×in."""
        left = self.left.reshape(self.out_features, self.groups, self.rank)
        right = self.right.reshape(self.groups, self.rank, -1)
        return torch.einsum("ogr,gri->ogi", left, right).reshape(-1, self.in_features)

    @property
    def weight(self) -> Tensor:
        """Return the dense weight, computed at each call."""
        return self.dense_weight()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs …×out for inputs …×in."""
        if self.groups == 1:
            inner = functional.linear(inputs, self.right)
        else:
            # One product per group over all rows: broadcasting would copy `right` for each row.
            right = self.right.reshape(self.groups, self.rank, -1).transpose(1, 2)
            sliced = inputs.reshape(-1, self.groups, right.shape[1]).transpose(0, 1)
            inner = torch.bmm(sliced, right).transpose(0, 1)
            inner = inner.reshape(*inputs.shape[:-1], self.groups * self.rank)
        return functional.linear(inner, self.left, self.bias)

    def spec(self) -> dict[str, Any]:
        """Return the arguments of `__init__` that build this layer empty, as JSON values."""
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "rank": self.rank,
            "groups": self.groups,
            "bias": self.bias is not None,
        }

    def extra_repr(self) -> str:
        """Return the shapes shown by `print`."""
        return ", ".join(f"{key}={value}" for key, value in self.spec().items())
