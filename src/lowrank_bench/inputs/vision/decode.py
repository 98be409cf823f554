"""Image files to pixels, by Pillow."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.vision.settings import ImageSettings

_MAGIC = {b"\xff\xd8\xff": "jpeg", b"\x89PNG": "png", b"GIF8": "gif", b"BM": "bmp"}
Box = tuple[int, int, int, int]


def encoding_of(item: Any) -> str:
    """Return the format of an encoded image by its first bytes, `unknown` for others.

    Parameters
    ----------
    item
        As hub data sets hold an image: a mapping with `bytes`, or with the `path` of a file.
    """
    start = _bytes(item)[:8]
    return next((name for magic, name in _MAGIC.items() if start.startswith(magic)), "unknown")


def open_image(item: Any, channels: int) -> Image.Image:
    """Return an image, decoded, in 3 channels (RGB) or 1 (grey).

    Raises
    ------
    LowRankError
        When it cannot be read.
    """
    try:
        image = Image.open(io.BytesIO(_bytes(item)))
        return image.convert("RGB" if channels == 3 else "L")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        path = item.get("path") if isinstance(item, Mapping) else None
        known = isinstance(error, UnidentifiedImageError)  # whose text names an address in memory
        fault = "no format that Pillow knows" if known else error
        raise LowRankError(
            f"an image{f' ({path})' if path else ''} cannot be decoded ({fault}); fetch the data "
            "again or take the file out"
        ) from None


def centre(image: Image.Image, settings: ImageSettings) -> np.ndarray:
    """Return the centre of an image, scaled as the settings say: uint8, channels×size×size."""
    if image.size != (settings.size, settings.size) or settings.resize is not None:
        scale = (settings.resize or settings.size) / min(image.size)
        wide, high = (max(settings.size, round(scale * side)) for side in image.size)
        image = image.resize((wide, high), Image.Resampling.BILINEAR)
        left, top = (wide - settings.size) // 2, (high - settings.size) // 2
        image = image.crop((left, top, left + settings.size, top + settings.size))
    return _planes(image)


def cut(image: Image.Image, box: Box, settings: ImageSettings) -> np.ndarray:
    """Return the part (left, top, right, bottom) of an image scaled to channels×size×size."""
    side = (settings.size, settings.size)
    return _planes(image.resize(side, Image.Resampling.BILINEAR, box=box))


def _planes(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _bytes(item: Any) -> bytes:
    if isinstance(item, bytes):
        return item
    if item.get("bytes") is not None:
        return item["bytes"]
    try:
        with open(item["path"], "rb") as stream:
            return stream.read()
    except OSError as error:
        raise LowRankError(f"image {item['path']} cannot be read ({error.strerror})") from None
