"""How images are prepared for a network."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lowrank_bench.errors import LowRankError


@dataclass(frozen=True)
class ImageSettings:
    """How an image becomes a network's input.

    Attributes
    ----------
    size
        Side of the square input, in pixels.
    mean, std
        One number per channel, for pixels in [0, 1]: the input is (pixel − mean) / std.
    channels
        3 (red, green, blue) or 1 (grey).
    resize
        The shorter side is scaled to this many pixels, and the centre is cropped to `size`; None
        scales the shorter side to `size`.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: int = 3
    resize: int | None = None

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise LowRankError(f"images have 1 or 3 channels, not {self.channels}")
        for name in ("mean", "std"):
            values = tuple(float(value) for value in getattr(self, name))
            if len(values) != self.channels:
                raise LowRankError(
                    f"image.{name} has {len(values)} numbers for {self.channels} channels"
                )
            object.__setattr__(self, name, values)
        if min(self.std) <= 0:
            raise LowRankError("image.std contains a number that is not positive")
        if self.resize is not None and self.resize < self.size:
            raise LowRankError(
                f"image.resize ({self.resize}) is less than image.size ({self.size})"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return asdict(self)


def settings_of(inputs: Mapping[str, Any], **changes: Any) -> ImageSettings:
    """Return the settings of a task's inputs, replaced by those of `changes` that are not None."""
    replaced = {name: value for name, value in changes.items() if value is not None}
    return ImageSettings(**{**inputs["image"], **replaced})
