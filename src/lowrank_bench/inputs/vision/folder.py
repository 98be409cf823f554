"""A local folder of images, with one subfolder per class, as the splits of a task."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lowrank_bench.errors import LowRankError

IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
ALIASES = {"validation": ("validation", "val")}


def list_folder(path: str, split: str, columns: Sequence[str]) -> list[dict[str, Any]] | None:
    """Return the rows of a split, or None when the split has no folder.

    Images are at `path`/`split`/`class`/`image`. Classes are numbered in the order of their names,
    which is the usual order of ImageNet's synsets.

    Parameters
    ----------
    columns
        Names of the columns for image and label.

    Raises
    ------
    LowRankError
        When `path` does not exist, or a split has no images.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise LowRankError(f"no folder of images at {path}; set task.<name>.source.path")
    names = ALIASES.get(split, (split,))
    folder = next((root / name for name in names if (root / name).is_dir()), None)
    if folder is None:
        return None
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    image, label = columns
    rows = [
        {image: {"bytes": None, "path": str(file.resolve())}, label: number}
        for number, name in enumerate(classes)
        for file in sorted((folder / name).iterdir())
        if file.suffix.lower() in IMAGES
    ]
    if not rows:
        raise LowRankError(
            f"{folder} has no images in a folder per class, such as {folder}/class/1.png"
        )
    return rows
