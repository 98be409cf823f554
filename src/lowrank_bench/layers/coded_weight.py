"""Linear layers and convolutions whose weight, or its two factors, is stored in few bits."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from lowrank_bench.errors import LowRankError
from lowrank_bench.layers.base import ReplacementLayer, as_parameter
from lowrank_bench.layers.code_store import CodeStore
from lowrank_bench.layers.geometry import convolution_options, convolution_spec
from lowrank_bench.linalg.coding.coded import Coded

Padding = str | tuple[int, int]


class CodedLayer(ReplacementLayer):
    """A layer whose m×n matrix is one code, or the product of two.

    Every forward decodes the codes and forgets the result: in memory the layer takes what it takes
    on disk, and while it runs the decoded matrices in addition.

    Parameters
    ----------
    parts
        Layouts of one code m×n; or of two, k×n and k×m, whose product is second.T @ first. A row
        of either belongs to one direction, so directions of different lengths share no scale.
    outputs
        m, the length of the bias.
    bias
        Whether there is a bias, in the network's precision.
    device, dtype
        Of all parameters, whose values are undefined until they are set or loaded.
    """

    def __init__(
        self,
        parts: Sequence[Mapping[str, Any]],
        outputs: int,
        bias: bool,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if len(parts) not in (1, 2):
            raise LowRankError(f"a coded layer has one code or two, not {len(parts)}")
        self.parts = nn.ModuleList(CodeStore(part, device, dtype) for part in parts)
        self.bias = nn.Parameter(torch.empty(outputs, device=device, dtype=dtype)) if bias else None

    @property
    @abstractmethod
    def matrix_shape(self) -> tuple[int, int]:
        """Return m and n of the weight as a matrix."""

    @property
    def weight(self) -> Tensor:
        """Return the dense weight, decoded at each call."""
        return self.dense_weight()

    @abstractmethod
    def dense_weight(self) -> Tensor:
        """Return the dense weight in the shape of the layer that was replaced."""

    @property
    def products(self) -> int:
        """Return the multiply-adds of one output position."""
        rows, columns = self.matrix_shape
        rank = self.rank
        return rows * columns if rank is None else rank * (rows + columns)

    @property
    def rank(self) -> int | None:
        """Return the rank of a product of two codes, or None."""
        return None if len(self.parts) == 1 else self._stores()[0].code().shape[0]

    def codes(self) -> list[Coded]:
        """Return the codes with their current values."""
        return [store.code() for store in self._stores()]

    def _decoded(self) -> list[Tensor]:
        return [store.decoded() for store in self._stores()]

    def _stores(self) -> list[CodeStore]:
        stores = list(self.parts)
        assert all(isinstance(store, CodeStore) for store in stores)
        return stores  # type: ignore[return-value]

    def _product(self) -> Tensor:
        """Return the matrix m×n."""
        matrices = self._decoded()
        return matrices[0] if len(matrices) == 1 else matrices[1].T @ matrices[0]

    def _fill(self, codes: Sequence[Coded], dense: nn.Module, bias: Tensor | None) -> None:
        """Take the values of codes, and a bias, on the device of a dense layer."""
        shapes = [code.shape for code in codes]
        rows, columns = self.matrix_shape
        fits = shapes == [(rows, columns)] or (
            len(shapes) == 2 and shapes == [(shapes[0][0], columns), (shapes[0][0], rows)]
        )
        if not fits:
            raise LowRankError(f"codes of {shapes} do not fit a matrix {rows}x{columns}")
        like = dense.weight
        assert isinstance(like, Tensor)
        self.parts = nn.ModuleList(CodeStore.of(code, like) for code in codes)
        if bias is not None:
            self.bias = as_parameter(bias, like)


class CodedLinear(CodedLayer):
    """A linear layer x ↦ W x + b with W, or its two factors, in few bits.

    Parameters
    ----------
    in_features, out_features
        Sizes of the dense layer.
    parts, bias, device, dtype
        As in `CodedLayer`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        parts: Sequence[Mapping[str, Any]],
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(parts, out_features, bias, device, dtype)
        self.in_features, self.out_features = in_features, out_features

    @classmethod
    def from_dense(
        cls, dense: nn.Linear, codes: Sequence[Coded], bias: Tensor | None = None
    ) -> Self:
        """Return the layer that replaces `dense`; `bias` takes the place of its bias.

        Raises
        ------
        LowRankError
            When the shapes of the codes do not fit.
        """
        bias = dense.bias if bias is None else bias
        layouts: list[dict[str, Any]] = [{} for _ in codes]
        layer = cls(dense.in_features, dense.out_features, layouts, bias is not None, "meta")
        layer._fill(codes, dense, bias)
        return layer.train(dense.training)

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Return out and in."""
        return self.out_features, self.in_features

    def dense_weight(self) -> Tensor:
        """Return the weight out×in."""
        return self._product()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs …×out for inputs …×in."""
        first, *second = self._decoded()
        if not second:
            return functional.linear(inputs, first, self.bias)
        return functional.linear(functional.linear(inputs, first), second[0].T, self.bias)

    def spec(self) -> dict[str, Any]:
        """Return the arguments of `__init__` that build this layer empty, as JSON values."""
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "parts": [store.spec() for store in self._stores()],
            "bias": self.bias is not None,
        }

    def extra_repr(self) -> str:
        """Return the sizes shown by `print`."""
        return f"{self.in_features}, {self.out_features}, rank={self.rank}"


class CodedConv2d(CodedLayer):
    """A convolution with its weight f×(c·k1·k2), or the two factors of it, in few bits.

    Two factors are a convolution with the whole kernel to k channels and one of 1×1 after it.

    Parameters
    ----------
    in_channels, out_channels, kernel_size
        c, f and (k1, k2).
    parts, bias, device, dtype
        As in `CodedLayer`.
    stride, padding, dilation, padding_mode
        Of the dense convolution, which has one group.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        parts: Sequence[Mapping[str, Any]],
        stride: Sequence[int] = (1, 1),
        padding: str | Sequence[int] = (0, 0),
        dilation: Sequence[int] = (1, 1),
        padding_mode: str = "zeros",
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(parts, out_channels, bias, device, dtype)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride = _pair(kernel_size), _pair(stride)
        self.padding: Padding = padding if isinstance(padding, str) else _pair(padding)
        self.dilation, self.padding_mode = _pair(dilation), padding_mode

    @classmethod
    def from_dense(
        cls, dense: nn.Conv2d, codes: Sequence[Coded], bias: Tensor | None = None
    ) -> Self:
        """Return the layer that replaces `dense`; `bias` takes the place of its bias.

        Raises
        ------
        LowRankError
            When the shapes of the codes do not fit, or the convolution is grouped.
        """
        if dense.groups != 1:
            raise LowRankError("a convolution with groups cannot be coded")
        bias = dense.bias if bias is None else bias
        layer = cls(
            dense.in_channels,
            dense.out_channels,
            dense.kernel_size,
            [{} for _ in codes],
            **convolution_options(dense),
            bias=bias is not None,
            device="meta",
        )
        layer._fill(codes, dense, bias)
        return layer.train(dense.training)

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Return f and c·k1·k2."""
        return self.out_channels, self.in_channels * prod(self.kernel_size)

    def dense_weight(self) -> Tensor:
        """Return the weight f×c×k1×k2."""
        return self._product().reshape(self.out_channels, self.in_channels, *self.kernel_size)

    def forward(self, images: Tensor) -> Tensor:
        """Return the responses b×f×h'×w' to b×c×h×w."""
        first, *second = self._decoded()
        kernel = first.reshape(len(first), self.in_channels, *self.kernel_size)
        if not second:
            return self._convolved(images, kernel, self.bias)
        inner = self._convolved(images, kernel, None)
        return functional.conv2d(inner, second[0].T[:, :, None, None], self.bias)

    def _convolved(self, images: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        """Return what a convolution of this geometry gives, as `nn.Conv2d` computes it."""
        padding = self.padding
        if self.padding_mode != "zeros":
            images = functional.pad(images, self._both_sides(), mode=self.padding_mode)
            padding = (0, 0)
        return functional.conv2d(images, kernel, bias, self.stride, padding, self.dilation)

    def _both_sides(self) -> list[int]:
        """Return how much is added on both sides of each axis, the last axis first."""
        sides: list[int] = []
        for axis in (1, 0):
            whole = self.dilation[axis] * (self.kernel_size[axis] - 1)
            if self.padding == "same":
                sides += [whole // 2, whole - whole // 2]
            else:
                sides += [0 if self.padding == "valid" else int(self.padding[axis])] * 2
        return sides

    def spec(self) -> dict[str, Any]:
        """Return the arguments of `__init__` that build this layer empty, as JSON values."""
        return {**convolution_spec(self), "parts": [store.spec() for store in self._stores()]}

    def extra_repr(self) -> str:
        """Return the sizes shown by `print`."""
        return f"{self.in_channels}, {self.out_channels}, {self.kernel_size}, rank={self.rank}"


def coded_layer(
    dense: nn.Module, codes: Sequence[Coded], bias: Tensor | None = None
) -> "CodedLinear | CodedConv2d":
    """Return the coded layer that replaces a linear layer or a convolution.

    Raises
    ------
    LowRankError
        When the shapes of the codes do not fit.
    """
    if isinstance(dense, nn.Linear):
        return CodedLinear.from_dense(dense, codes, bias)
    assert isinstance(dense, nn.Conv2d)
    return CodedConv2d.from_dense(dense, codes, bias)


def _pair(values: Sequence[int]) -> tuple[int, int]:
    first, second = values
    return first, second
