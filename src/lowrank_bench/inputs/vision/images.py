"""The images of a split, as uint8 pixels in memory or decoded batch by batch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.vision.decode import Box, centre, crop, open_image
from lowrank_bench.inputs.vision.settings import ImageSettings

IN_MEMORY = 64  # side in pixels up to which all images are decoded at once: 12 kB each


class Undecoded:
    """Images that are decoded on every access; indexed by rows like a tensor."""

    def __init__(self, items: list[Any], settings: ImageSettings) -> None:
        self.items, self.settings = items, settings

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, rows: Sequence[int]) -> Tensor:
        """Return the centres of some images, uint8 n×channels×size×size."""
        channels = self.settings.channels
        decoded = (centre(open_image(self.items[i], channels), self.settings) for i in rows)
        return torch.from_numpy(np.stack(list(decoded)))

    def crops(self, rows: Sequence[int], generator: torch.Generator) -> Tensor:
        """Return random crops of some images, uint8 n×channels×size×size.

        A crop has 8 % to 100 % of the area and an aspect ratio of 3/4 to 4/3 (Szegedy et al. 2015,
        section 6).
        """
        crops = []
        for i in rows:
            image = open_image(self.items[i], self.settings.channels)
            crops.append(crop(image, _random_box(*image.size, generator), self.settings))
        return torch.from_numpy(np.stack(crops))


def _random_box(width: int, height: int, generator: torch.Generator, tries: int = 10) -> Box:
    for _ in range(tries):
        draws = torch.rand(4, generator=generator).tolist()
        area = (0.08 + 0.92 * draws[0]) * width * height
        ratio = (3 / 4) * (16 / 9) ** draws[1]  # uniform on a logarithmic scale
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        # A box that does not fit the image is drawn again.
        if 0 < w <= width and 0 < h <= height:
            left, top = int(draws[2] * (width - w + 1)), int(draws[3] * (height - h + 1))
            return left, top, left + w, top + h
    # Very long images: take the square in the centre.
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


@dataclass(frozen=True)
class Encoded:
    """One split of images.

    Attributes
    ----------
    images
        uint8 n×channels×size×size, or images that are decoded on every access.
    labels
        Array of n class ids, int64.
    """

    images: Tensor | Undecoded
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def with_labels(self, labels: NDArray[Any]) -> "Encoded":
        """Return the same images with other labels."""
        return replace(self, labels=labels)


def encode(rows: pd.DataFrame, settings: ImageSettings, inputs: Mapping[str, Any]) -> Encoded:
    """Return the images and labels of the rows of a split.

    Small images are decoded once, large ones on every access.

    Parameters
    ----------
    inputs
        `columns` (one, of encoded images), `label` (its column) and `labels` (the class names).

    Raises
    ------
    LowRankError
        When there are no rows, an image cannot be decoded, or a label is not a class.
    """
    if not len(rows):
        raise LowRankError("the split has no rows; check its name and train.holdout of the task")
    items = rows[inputs["columns"][0]].tolist()
    labels = rows[inputs["label"]].to_numpy(dtype=np.int64)
    invalid = labels[(labels < 0) | (labels >= len(inputs["labels"]))]
    if len(invalid):
        raise LowRankError(
            f"column {inputs['label']!r} contains class {invalid[0]}, but the task has "
            f"{len(inputs['labels'])} labels; use a split with labels or correct the list"
        )
    images = Undecoded(items, settings)
    if settings.size > IN_MEMORY:
        return Encoded(images, labels)
    return Encoded(images[range(len(items))], labels)


def normalise(images: Tensor, settings: ImageSettings) -> Tensor:
    """Return a network's input, float32 n×channels×h×w, for uint8 pixels on the same device."""
    mean = torch.tensor(settings.mean, device=images.device).view(-1, 1, 1)
    std = torch.tensor(settings.std, device=images.device).view(-1, 1, 1)
    return images.float().div_(255).sub_(mean).div_(std)


def batches(
    encoded: Encoded,
    processor: ImageSettings,
    rows: Sequence[int],
    device: str,
    batch_size: int,
) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Yield inputs and labels, in the order of `rows` and without augmentation."""
    for start in range(0, len(rows), batch_size):
        batch = list(rows[start : start + batch_size])
        images = normalise(encoded.images[batch].to(device), processor)
        yield {"pixel_values": images}, torch.as_tensor(encoded.labels[batch], device=device)
