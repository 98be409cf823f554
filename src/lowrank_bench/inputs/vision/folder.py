"""A local folder of images, one folder a class, as the splits of a task."""

from pathlib import Path
from typing import Any

from lowrank_bench.errors import LowRankError

IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
ALIASES = {"validation": ("validation", "val")}


def list_folder(path: str, split: str, columns: tuple[str, str]) -> list[dict[str, Any]] | None:
    """Return the rows of a split, or None when it has no folder.

    The folder is `path`/`split`/`class`/`image`; the classes are numbered in the order of their
    names, which for the synsets of ImageNet is everyone's order.

    Parameters
    ----------
    columns
        Names of the columns of image and label.

    Raises
    ------
    LowRankError
        When there is no such folder, or no image in it.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise LowRankError(f"no folder of images {path}; set task.<name>.source.path")
    names = ALIASES.get(split, (split,))
    place = next((root / name for name in names if (root / name).is_dir()), None)
    if place is None:
        return None
    classes = sorted(entry.name for entry in place.iterdir() if entry.is_dir())
    image, label = columns
    rows = [
        {image: {"bytes": None, "path": str(file.resolve())}, label: number}
        for number, name in enumerate(classes)
        for file in sorted((place / name).iterdir())
        if file.suffix.lower() in IMAGES
    ]
    if not rows:
        raise LowRankError(f"{place} holds no images in folders of classes ({place}/class/1.png)")
    return rows
