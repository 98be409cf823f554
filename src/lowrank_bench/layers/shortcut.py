"""The parameter-free shortcut of residual networks."""

from torch import Tensor, nn
from torch.nn import functional as F


class PaddedShortcut(nn.Module):
    """Shortcut option A: every second pixel, and new channels filled with zeros.

    Published weights put half of the new channels before the old ones and half after them.

    Parameters
    ----------
    before, after
        Number of channels added before and after the old ones.
    stride
        Step between pixels that are kept.
    """

    def __init__(self, before: int, after: int, stride: int = 2) -> None:
        super().__init__()
        self.before, self.after, self.stride = before, after, stride

    def forward(self, x: Tensor) -> Tensor:
        """Return n×(before + c + after)×⌈h/stride⌉×⌈w/stride⌉ of an input n×c×h×w."""
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.before, self.after))

    def extra_repr(self) -> str:
        """Return what is printed between the brackets."""
        return f"before={self.before}, after={self.after}, stride={self.stride}"
