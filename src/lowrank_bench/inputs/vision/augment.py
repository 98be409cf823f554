"""Random changes to a batch of images, for training."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.vision.images import Encoded, Undecoded

AUGMENTS = ("none", "crop_flip", "resized_crop")
PADDING = 8  # each edge is padded by an eighth of the side: 4 pixels for 32


def training_images(
    encoded: Encoded, rows: Sequence[int], augment: str, generator: torch.Generator, device: str
) -> Tensor:
    """Return the images for one training step, uint8 n×channels×h×w on the device.

    Parameters
    ----------
    augment
        `none`; `crop_flip`: pad with black, crop at random and mirror half of the images;
        `resized_crop`: scale a random crop to the input's size and mirror half (large images).
    generator
        Source of all random draws, on the CPU.

    Raises
    ------
    LowRankError
        For an unknown `augment`, or `resized_crop` with small images.
    """
    if augment not in AUGMENTS:
        raise LowRankError(f"recipe.augment = {augment!r} is not one of {', '.join(AUGMENTS)}")
    if augment == "resized_crop":
        if not isinstance(encoded.images, Undecoded):
            raise LowRankError(
                "recipe.augment = 'resized_crop' needs images larger than 64 pixels; use crop_flip"
            )
        images = encoded.images.crops(rows, generator).to(device)
        return _mirror(images, generator)
    images = encoded.images[rows].to(device)
    if augment == "none":
        return images
    return crop_flip(images, generator)


def crop_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return each image padded with zeros and cropped at random, half of them mirrored.

    Parameters
    ----------
    images
        n×channels×h×w of any type.
    """
    n, _, height, width = images.shape
    edges = (height // PADDING, width // PADDING)
    padded = torch.nn.functional.pad(images, (edges[1], edges[1], edges[0], edges[0]))
    # One offset per image and axis: 0 keeps all padding on the top or left, 2·edge none of it.
    tops, lefts = (torch.randint(2 * edge + 1, (n, 1), generator=generator) for edge in edges)
    # Mirroring reverses the order in which the columns of the crop are read.
    columns = torch.arange(width).expand(n, width)
    mirrored = torch.rand((n, 1), generator=generator) < 0.5
    columns = torch.where(mirrored, width - 1 - columns, columns)
    y, x = tops + torch.arange(height), lefts + columns
    # Broadcast to n×h×w, so that a single lookup crops and mirrors the whole batch.
    indices = (torch.arange(n)[:, None, None], y[:, :, None], x[:, None, :])
    image, y, x = (index.to(images.device) for index in indices)
    # Two indices around a slice put the sliced axis, the channels, last.
    return padded[image, :, y, x].permute(0, 3, 1, 2)


def _mirror(images: Tensor, generator: torch.Generator) -> Tensor:
    mirrored = (torch.rand(len(images), generator=generator) < 0.5).to(images.device)
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)
