"""Calibration data for `lowrank compress`: lines of a text file, or images of a folder."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.network.problem import Batches

ROWS, BATCH_SIZE, MAX_LENGTH = 256, 32, 128
LARGEST_SIDE = 4096  # pixels


def text_batches(lines: list[str], tokenizer: Any) -> Batches:
    """Return batches of the first 256 nonempty lines, padded and cut to 128 tokens."""
    chosen = [line for line in lines if line.strip()][:ROWS]
    options: dict[str, Any] = {"padding": True, "truncation": True, "max_length": MAX_LENGTH}

    def _batches() -> Iterator[tuple[dict[str, Tensor], None]]:
        for start in range(0, len(chosen), BATCH_SIZE):
            rows = chosen[start : start + BATCH_SIZE]
            yield dict(tokenizer(rows, return_tensors="pt", **options)), None

    return _batches


def image_batches(folder: Path, model: nn.Module, name: str) -> Batches:
    """Return batches of the first 256 images of a folder, prepared as the network expects.

    Raises
    ------
    LowRankError
        When the folder has no image, an image cannot be decoded, or the network's repository does
        not say how to prepare them.
    """
    from lowrank_bench.inputs.vision.decode import centre, open_image
    from lowrank_bench.inputs.vision.folder import IMAGES
    from lowrank_bench.inputs.vision.images import normalise

    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in IMAGES)[:ROWS]
    if not files:
        raise LowRankError(f"--images {folder} has no images in it ({', '.join(sorted(IMAGES))})")
    settings = _settings(model, name)

    def _batches() -> Iterator[tuple[dict[str, Tensor], None]]:
        for start in range(0, len(files), BATCH_SIZE):
            rows = [{"path": str(file)} for file in files[start : start + BATCH_SIZE]]
            pixels = [centre(open_image(row, settings.channels), settings) for row in rows]
            images = torch.from_numpy(np.stack(pixels))
            yield {"pixel_values": normalise(images, settings)}, None

    return _batches


def image_example(model: nn.Module, name: str) -> dict[str, Tensor] | None:
    """Return one image of the size that the network's repository states; None where it does not."""
    if getattr(model, "main_input_name", None) != "pixel_values":
        return None
    try:
        settings = _settings(model, name)
    except LowRankError:
        return None
    return {"pixel_values": torch.zeros(1, settings.channels, settings.size, settings.size)}


def _settings(model: nn.Module, name: str) -> Any:
    from lowrank_bench.inputs.vision.settings import ImageSettings

    config: Any = model.config  # of transformers; its folder, where the network came from a hub
    folder = Path(getattr(config, "_name_or_path", "") or name)
    try:
        said = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        size = getattr(config, "image_size", None) or said.get("crop_size") or said.get("size")
        while isinstance(size, dict):
            size = next(iter(size.values()))
        channels = getattr(config, "num_channels", 3)
        half = [0.5] * channels
        mean, std = said.get("image_mean") or half, said.get("image_std") or half
        settings = ImageSettings(int(size or 224), tuple(mean), tuple(std), channels)
    except (OSError, ValueError, TypeError, AttributeError, StopIteration) as error:
        fault = (str(error).splitlines() or [type(error).__name__])[0]
        raise LowRankError(
            f"{name} does not say how to prepare images (preprocessor_config.json): {fault}"
        ) from None
    if not 1 <= settings.size <= LARGEST_SIDE:
        raise LowRankError(
            f"{name} says that images have {settings.size} pixels a side, at most {LARGEST_SIDE} "
            "are taken; correct its preprocessor_config.json"
        )
    return settings
