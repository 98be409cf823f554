"""A convolution stored as two: each group's folded weight is a product of two matrices."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.layers.base import ReplacementLayer, as_parameter
from lowrank_bench.layers.fold import encoder_axes, split_kernel
from lowrank_bench.layers.geometry import convolution_options, convolution_spec

Padding = str | tuple[int, int]


class FactorizedConv2d(ReplacementLayer):
    """A convolution as `decoder`(`encoder`(x)): c → groups·rank → f channels, nothing in between.

    The encoder is grouped and has no bias; the decoder mixes the groups and adds the bias.

    Parameters
    ----------
    in_channels, out_channels, kernel_size
        c, f and (k1, k2) of the dense convolution.
    rank, groups
        j and k: each of k groups has rank j; the encoder has k·j output channels.
    scheme
        Which of the two takes which part of the kernel (`split_kernel`).
    stride, padding, dilation, padding_mode
        Of the dense convolution.
    bias
        Whether there is a bias.
    device, dtype
        Of all parameters, whose values are undefined until they are set or loaded.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        rank: int,
        groups: int = 1,
        scheme: int = 0,
        stride: tuple[int, int] = (1, 1),
        padding: Padding = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        padding_mode: str = "zeros",
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.rank, self.groups = _pair(kernel_size), rank, groups
        self.scheme, self.stride, self.dilation = scheme, _pair(stride), _pair(dilation)
        self.padding = padding if isinstance(padding, str) else _pair(padding)
        self.padding_mode = padding_mode
        first, second = split_kernel(self.kernel_size, scheme)
        # An axis is strided, padded and dilated once, by the factor that runs along it.
        tall, wide = encoder_axes(scheme)
        inner, kind = groups * rank, {"device": device or "cpu", "dtype": dtype}
        options = {"groups": groups, "bias": False, **self._along((tall, wide)), **kind}
        self.encoder = _empty(in_channels, inner, first, **options)
        options = {"bias": bias, **self._along((not tall, not wide)), **kind}
        self.decoder = _empty(inner, out_channels, second, **options)

    def _along(self, axes: tuple[bool, bool]) -> dict[str, Any]:
        """Return the options of a convolution that acts on these of the two axes."""
        padding = self.padding
        if not isinstance(padding, str):
            padding = _pick(axes, padding, 0)
        return {
            "stride": _pick(axes, self.stride, 1),
            "padding": padding,
            "dilation": _pick(axes, self.dilation, 1),
            "padding_mode": self.padding_mode,
        }

    @classmethod
    def from_dense(
        cls,
        dense: nn.Conv2d,
        left: Tensor,
        right: Tensor,
        scheme: int = 0,
        bias: Tensor | None = None,
    ) -> Self:
        """Return the layer that replaces `dense`, on its device and in its precision.

        Parameters
        ----------
        dense
            Convolution f×c×k1×k2 with one group.
        left, right
            Tensors k×(f·decoder kernel)×j and k×j×(c/k·encoder kernel) whose products stand for
            `fold(dense.weight, scheme, k)`; without the first axis for k = 1.
        bias
            Tensor f that replaces the bias of `dense`.

        Raises
        ------
        LowRankError
            When the shapes do not fit, or the dense convolution is grouped.
        """
        left, right = (part if part.ndim == 3 else part.unsqueeze(0) for part in (left, right))
        groups, rank = left.shape[0], left.shape[2]
        if dense.groups != 1:
            raise LowRankError("a convolution that is grouped already cannot be factorized")
        kernel_size = _pair(dense.kernel_size)
        (e1, e2), (d1, d2) = split_kernel(kernel_size, scheme)
        f, c = dense.out_channels, dense.in_channels
        # Encoder: kernel e1×e2 on its slice of the channels; decoder: kernel d1×d2.
        expected = (groups, f * d1 * d2, rank), (groups, rank, c // groups * e1 * e2)
        if (tuple(left.shape), tuple(right.shape)) != expected or c % groups:
            sizes = " and ".join("x".join(map(str, part.shape)) for part in (left, right))
            raise LowRankError(f"factors {sizes} do not fit a {f}x{c} convolution, scheme {scheme}")
        bias = dense.bias if bias is None else bias
        layer = cls(
            c,
            f,
            kernel_size,
            rank,
            groups,
            scheme,
            **convolution_options(dense),
            bias=bias is not None,
            device="meta",
        )
        # Decoder filters read the channels of group 0 first, then those of group 1, and so on.
        decoder = left.reshape(groups, f, d1, d2, rank).permute(1, 0, 4, 2, 3)
        encoder = right.reshape(groups * rank, c // groups, e1, e2)
        like = dense.weight
        layer.encoder.weight = as_parameter(encoder, like)
        layer.decoder.weight = as_parameter(decoder.reshape(f, groups * rank, d1, d2), like)
        if bias is not None:
            layer.decoder.bias = as_parameter(bias, like)
        return layer.train(dense.training)

    def dense_weight(self) -> Tensor:
        """Return the tensor f×c×k1×k2 of the one convolution that computes the same."""
        encoder, decoder = self.encoder.weight, self.decoder.weight
        right = encoder.reshape(self.groups, self.rank, *encoder.shape[1:])
        left = decoder.reshape(len(decoder), self.groups, self.rank, *decoder.shape[2:])
        # One of p and u is 1, and one of q and v: each axis of the kernel lies in one factor.
        product = torch.einsum("fgrpq,grcuv->fgcpuqv", left, right)
        return product.reshape(self.out_channels, self.in_channels, *self.kernel_size)

    @property
    def weight(self) -> Tensor:
        """Return the dense weight, computed at each call."""
        return self.dense_weight()

    @property
    def bias(self) -> Tensor | None:
        """Return the bias f, or None."""
        return self.decoder.bias

    def forward(self, images: Tensor) -> Tensor:
        """Return the responses b×f×h'×w' to b×c×h×w."""
        responses: Tensor = self.decoder(self.encoder(images))
        return responses

    def spec(self) -> dict[str, Any]:
        """Return the arguments of `__init__` that build this layer empty, as JSON values."""
        cut = {"rank": self.rank, "groups": self.groups, "scheme": self.scheme}
        return {**convolution_spec(self), **cut}

    def extra_repr(self) -> str:
        """Return the shapes shown by `print`."""
        return f"rank={self.rank}, groups={self.groups}, scheme={self.scheme}"


def _empty(
    inputs: int, outputs: int, kernel: tuple[int, int], device: torch.device | str, **options: Any
) -> nn.Conv2d:
    """Return a convolution with undefined values: on the meta device no random ones are drawn."""
    return nn.Conv2d(inputs, outputs, kernel, **options, device="meta").to_empty(device=device)


def _pair(values: Sequence[int]) -> tuple[int, int]:
    first, second = values
    return first, second


def _pick(axes: tuple[bool, bool], values: tuple[int, int], neutral: int) -> tuple[int, int]:
    """Return the values of the axes that are taken, and a neutral one for the others."""
    return _pair([value if taken else neutral for taken, value in zip(axes, values, strict=True)])
