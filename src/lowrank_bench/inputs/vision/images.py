"""The images of a split, as uint8 pixels in memory or decoded when a batch asks for them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.vision.decode import centre, cut, open_image
from lowrank_bench.inputs.vision.settings import ImageSettings

IN_MEMORY = 64  # largest side in pixels of images that are all decoded at once: 12 kB each


class Undecoded:
    """Images that are decoded whenever they are asked for; indexed by rows like a tensor."""

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
        """Return random parts of some images, 8 % to all of the area and 3/4 to 4/3 wide.

        uint8, n×channels×size×size (Szegedy et al. 2015, section 6).
        """
        parts = []
        for i in rows:
            image = open_image(self.items[i], self.settings.channels)
            parts.append(cut(image, _random_box(*image.size, generator), self.settings))
        return torch.from_numpy(np.stack(parts))


def _random_box(
    wide: int, high: int, generator: torch.Generator, tries: int = 10
) -> tuple[int, int, int, int]:
    for _ in range(tries):
        draws = torch.rand(4, generator=generator).tolist()
        area = (0.08 + 0.92 * draws[0]) * wide * high
        ratio = (3 / 4) * (16 / 9) ** draws[1]
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= wide and 0 < h <= high:
            left, top = int(draws[2] * (wide - w + 1)), int(draws[3] * (high - h + 1))
            return left, top, left + w, top + h
    side = min(wide, high)
    left, top = (wide - side) // 2, (high - side) // 2
    return left, top, left + side, top + side


@dataclass(frozen=True)
class Encoded:
    """One split of images.

    Attributes
    ----------
    images
        uint8 n×channels×size×size, or images that are decoded when they are asked for.
    labels
        Array of n class ids, int64.
    """

    images: Tensor | Undecoded
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


def encode(rows: pd.DataFrame, settings: ImageSettings, inputs: Mapping[str, Any]) -> Encoded:
    """Return the images and labels of the rows of a split.

    Small images are decoded once, large ones whenever they are needed.

    Parameters
    ----------
    inputs
        `columns` (one, of encoded images), `label` (its column) and `labels` (the class names).

    Raises
    ------
    LowRankError
        When there is no row, an image cannot be decoded, or a label has no class.
    """
    if not len(rows):
        raise LowRankError("the split has no rows; check its name and train.holdout of the task")
    items = rows[inputs["columns"][0]].tolist()
    labels = rows[inputs["label"]].to_numpy(dtype=np.int64)
    wrong = labels[(labels < 0) | (labels >= len(inputs["labels"]))]
    if len(wrong):
        raise LowRankError(
            f"column {inputs['label']!r} holds class {wrong[0]}, the task has "
            f"{len(inputs['labels'])} labels; take a split with labels or correct the list"
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
    """Yield inputs and labels, rows in the order given and not augmented."""
    for start in range(0, len(rows), batch_size):
        some = np.asarray(rows[start : start + batch_size])
        images = normalise(encoded.images[some].to(device), processor)
        yield {"pixel_values": images}, torch.as_tensor(encoded.labels[some], device=device)
