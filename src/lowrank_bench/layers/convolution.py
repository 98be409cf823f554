"""A convolution kept as two: the folded weight tensor as a product of two matrices per group."""

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from lowrank_bench.errors import LowRankError
from lowrank_bench.layers.base import plain_copy

SCHEMES = (0, 1, 2, 3)
Padding = str | tuple[int, int]


def split_kernel(kernel: tuple[int, int], scheme: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the kernel sizes of encoder and decoder for a folding scheme.

    Parameters
    ----------
    kernel
        (k1, k2) of the dense convolution.
    scheme
        0: the encoder takes the whole kernel; 1: the encoder takes k2, the decoder k1; 2: the
        encoder takes k1, the decoder k2; 3: the decoder takes the whole kernel.

    Raises
    ------
    LowRankError
        When there is no such scheme.
    """
    if scheme not in SCHEMES:
        raise LowRankError(f"unknown folding scheme {scheme!r}; known: 0, 1, 2, 3")
    tall, wide = scheme in (0, 2), scheme in (0, 1)  # whether the encoder takes k1, and k2
    encoder = (kernel[0] if tall else 1, kernel[1] if wide else 1)
    return encoder, (kernel[0] // encoder[0], kernel[1] // encoder[1])


def fold(weight: Tensor, scheme: int = 0, groups: int = 1) -> Tensor:
    """Return the matrices to approximate: groups × (f·decoder kernel) × (c/groups·encoder kernel).

    Parameters
    ----------
    weight
        Tensor f×c×k1×k2.
    scheme
        Which of the two factors takes which part of the kernel (`split_kernel`).
    groups
        Number of consecutive slices of the c input channels; divides c.

    References
    ----------
    Liebenwein, Maalouf, Gal, Feldman, Rus, "Compressing neural networks: towards determining the
    optimal layer-wise decomposition", NeurIPS 2021, section 2.1: the channel slices, scheme 0.
    """
    f, c, k1, k2 = weight.shape
    if groups < 1 or c % groups:
        raise LowRankError(f"{groups} groups do not divide {c} input channels; take a divisor")
    (e1, e2), (d1, d2) = split_kernel((k1, k2), scheme)
    parts = weight.reshape(f, groups, c // groups, d1, e1, d2, e2)
    parts = parts.permute(1, 0, 3, 5, 2, 4, 6)
    return parts.reshape(groups, f * d1 * d2, c // groups * e1 * e2)


class FactorizedConv2d(nn.Module):
    """A convolution as `decoder`(`encoder`(x)): c → groups·rank → f channels, nothing in between.

    The encoder is grouped and has no bias; the decoder mixes the groups and adds the bias.

    Parameters
    ----------
    in_channels, out_channels, kernel_size
        c, f and (k1, k2) of the dense convolution.
    rank, groups
        j for each of k groups; the encoder has k·j output channels.
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
        self.kernel_size, self.rank, self.groups = tuple(kernel_size), rank, groups
        self.scheme, self.stride, self.dilation = scheme, tuple(stride), tuple(dilation)
        self.padding = padding if isinstance(padding, str) else tuple(padding)
        self.padding_mode = padding_mode
        first, second = split_kernel(self.kernel_size, scheme)
        # An axis is strided, padded and dilated once, by the factor that runs along it.
        own = (scheme in (0, 2), scheme in (0, 1))
        other = (not own[0], not own[1])
        kind: dict[str, Any] = {"device": device or "cpu", "dtype": dtype}
        self.encoder = skip_init(
            nn.Conv2d,
            in_channels,
            groups * rank,
            first,
            groups=groups,
            bias=False,
            **self._along(own),
            **kind,
        )
        self.decoder = skip_init(
            nn.Conv2d,
            groups * rank,
            out_channels,
            second,
            bias=bias,
            **self._along(other),
            **kind,
        )

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
            Tensor f in place of the layer's own bias.

        Raises
        ------
        LowRankError
            When the shapes do not fit, or the convolution has groups itself.
        """
        left, right = (part if part.ndim == 3 else part.unsqueeze(0) for part in (left, right))
        groups, rank = left.shape[0], left.shape[2]
        if dense.groups != 1:
            raise LowRankError("a convolution with groups of its own cannot be factorized")
        (e1, e2), (d1, d2) = split_kernel(dense.kernel_size, scheme)
        f, c = dense.out_channels, dense.in_channels
        expected = (groups, f * d1 * d2, rank), (groups, rank, c // groups * e1 * e2)
        if (tuple(left.shape), tuple(right.shape)) != expected or c % groups:
            found = " and ".join("x".join(map(str, part.shape)) for part in (left, right))
            raise LowRankError(f"factors {found} do not fit a {f}x{c} convolution, scheme {scheme}")
        bias = dense.bias if bias is None else bias
        options = ("stride", "padding", "dilation", "padding_mode")
        layer = cls(
            c,
            f,
            dense.kernel_size,
            rank,
            groups,
            scheme,
            **{name: getattr(dense, name) for name in options},
            bias=bias is not None,
            device="meta",
        )
        decoder = left.reshape(groups, f, d1, d2, rank).permute(1, 0, 4, 2, 3)
        encoder = right.reshape(groups * rank, c // groups, e1, e2)
        like = dense.weight
        layer.encoder.weight = as_parameter(encoder, like)
        layer.decoder.weight = as_parameter(decoder.reshape(f, groups * rank, d1, d2), like)
        if bias is not None:
            layer.decoder.bias = as_parameter(bias, like)
        return layer.train(dense.training)

    def dense_weight(self) -> Tensor:
        """Return the tensor f×c×k1×k2 that the two convolutions amount to."""
        encoder, decoder = self.encoder.weight, self.decoder.weight
        right = encoder.reshape(self.groups, self.rank, *encoder.shape[1:])
        left = decoder.reshape(len(decoder), self.groups, self.rank, *decoder.shape[2:])
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
        return self.decoder(self.encoder(images))

    def spec(self) -> dict[str, Any]:
        """Return what `__init__` needs to build this layer empty, as JSON can hold it."""
        padding = self.padding if isinstance(self.padding, str) else list(self.padding)
        return {
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "kernel_size": list(self.kernel_size),
            "rank": self.rank,
            "groups": self.groups,
            "scheme": self.scheme,
            "stride": list(self.stride),
            "padding": padding,
            "dilation": list(self.dilation),
            "padding_mode": self.padding_mode,
            "bias": self.bias is not None,
        }

    def extra_repr(self) -> str:
        """Return the shapes shown by `print`."""
        return f"rank={self.rank}, groups={self.groups}, scheme={self.scheme}"


def _pick(axes: tuple[bool, bool], values: tuple[int, int], neutral: int) -> tuple[int, int]:
    first, second = (v if taken else neutral for taken, v in zip(axes, values, strict=True))
    return first, second


def as_parameter(value: Tensor, like: nn.Parameter) -> nn.Parameter:
    """Return a copy of `value` on the device and in the precision of `like`."""
    value = plain_copy(value, like.device, like.dtype)
    return nn.Parameter(value, requires_grad=like.requires_grad)
