"""Decode image files to pixels with Pillow."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.vision.settings import ImageSettings

_MAGIC = {b"\xff\xd8\xff": "jpeg", b"\x89PNG": "png", b"GIF8": "gif", b"BM": "bmp"}
Box = tuple[int, int, int, int]
Pixels = NDArray[np.uint8]


def encoding_of(item: Any) -> str:
    """Return the format of an encoded image from its first bytes, or `unknown`.

    Parameters
    ----------
    item
        An image as data sets on the hub store it: a mapping with its `bytes`, or with the `path`
        of a file.
    """
    start = _bytes(item)[:8]
    return next((name for magic, name in _MAGIC.items() if start.startswith(magic)), "unknown")


def open_image(item: Any, channels: int) -> Image.Image:
    """Return a decoded image with 3 channels (RGB) or 1 (grey).

    Raises
    ------
    LowRankError
        When the image cannot be read.
    """
    try:
        image = Image.open(io.BytesIO(_bytes(item)))
        return image.convert("RGB" if channels == 3 else "L")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        path = item.get("path") if isinstance(item, Mapping) else None
        # The text of an UnidentifiedImageError is an address in memory: no use to anyone.
        unknown = isinstance(error, UnidentifiedImageError)
        fault = "not a format that Pillow knows" if unknown else error
        raise LowRankError(
            f"an image{f' ({path})' if path else ''} cannot be decoded ({fault}); download the "
            "data again or remove the file"
        ) from None


def centre(image: Image.Image, settings: ImageSettings) -> Pixels:
    """Return the centre of an image, scaled by the settings: uint8, channels×size×size."""
    if image.size != (settings.size, settings.size) or settings.resize is not None:
        scale = (settings.resize or settings.size) / min(image.size)
        width, height = (max(settings.size, round(scale * side)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (width - settings.size) // 2, (height - settings.size) // 2
        image = image.crop((left, top, left + settings.size, top + settings.size))
    return _planes(image)


def crop(image: Image.Image, box: Box, settings: ImageSettings) -> Pixels:
    """Return the box (left, top, right, bottom) of an image, scaled to channels×size×size."""
    side = (settings.size, settings.size)
    return _planes(image.resize(side, Image.Resampling.BILINEAR, box=box))


def _planes(image: Image.Image) -> Pixels:
    pixels: Pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _bytes(item: Any) -> bytes:
    if isinstance(item, bytes):
        return item
    content: bytes | None = item.get("bytes")
    if content is not None:
        return content
    try:
        with open(item["path"], "rb") as stream:
            return stream.read()
    except OSError as error:
        raise LowRankError(f"image {item['path']} cannot be read ({error.strerror})") from None
