"""Random changes of a batch of images, for training."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.vision.images import Encoded, Undecoded

AUGMENTS = ("none", "crop_flip", "resized_crop")
PADDING = 8  # an eighth of the side is padded on each edge: 4 of 32 pixels


def training_images(
    encoded: Encoded, rows: Sequence[int], augment: str, generator: torch.Generator, device: str
) -> Tensor:
    """Return images as one training step sees them, uint8 n×channels×h×w on the device.

    Parameters
    ----------
    augment
        `none`; `crop_flip`: pad with black, cut at random and mirror half of them;
        `resized_crop`: scale a random part to the input's size and mirror half (large images).
    generator
        Of the CPU; decides everything random.

    Raises
    ------
    LowRankError
        For an unknown name, or `resized_crop` of small images.
    """
    if augment not in AUGMENTS:
        raise LowRankError(f"recipe.augment = {augment!r} is none of {', '.join(AUGMENTS)}")
    if augment == "resized_crop":
        if not isinstance(encoded.images, Undecoded):
            raise LowRankError(
                "recipe.augment = 'resized_crop' needs images above 64 pixels; take crop_flip"
            )
        images = encoded.images.crops(rows, generator).to(device)
        return _mirror(images, generator)
    images = encoded.images[rows].to(device)
    if augment == "none":
        return images
    return crop_flip(images, generator)


def crop_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return each image padded with zeros and cut at a random place, half of them mirrored.

    Parameters
    ----------
    images
        n×channels×h×w of any type.
    """
    n, _, high, wide = images.shape
    edges = (high // PADDING, wide // PADDING)
    padded = torch.nn.functional.pad(images, (edges[1], edges[1], edges[0], edges[0]))
    tops, lefts = (torch.randint(2 * e + 1, (n, 1), generator=generator) for e in edges)
    columns = torch.arange(wide).expand(n, wide)
    mirrored = torch.rand((n, 1), generator=generator) < 0.5
    columns = torch.where(mirrored, wide - 1 - columns, columns)
    y, x = tops + torch.arange(high), lefts + columns
    places = (torch.arange(n)[:, None, None], y[:, :, None], x[:, None, :])
    at, y, x = (place.to(images.device) for place in places)
    # Two indices around a slice put the sliced axis last.
    return padded[at, :, y, x].permute(0, 3, 1, 2)


def _mirror(images: Tensor, generator: torch.Generator) -> Tensor:
    mirrored = (torch.rand(len(images), generator=generator) < 0.5).to(images.device)
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)
