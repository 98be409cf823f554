"""The manifest of a folder in the store: its files with their SHA-256, and its writer's facts."""

import json
from pathlib import Path
from typing import Any

from lowrank_bench.store.checksum import BLANK, NAME, DamagedError, check_sealed, sealed
from lowrank_bench.store.digest import file_digest

MANIFEST = "manifest.json"


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Write what a finished folder holds, and seal it."""
    files = {
        str(file.relative_to(folder)): [file.stat().st_size, file_digest(file)]
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    for name in files:
        (folder / name).chmod(0o644)
    content = {"about": facts, "files": files, NAME: BLANK}
    text = json.dumps(content, indent=1, sort_keys=True)
    (folder / MANIFEST).write_bytes(sealed(text.encode()))


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the facts (`about`) and the files of a folder: size and SHA-256 by name.

    Raises
    ------
    DamagedError
        When it is missing, or not as it was written.
    OSError
        When it cannot be read now, which says nothing about it.
    """
    try:
        content: dict[str, Any] = json.loads(check_sealed((folder / MANIFEST).read_bytes()))
    except (FileNotFoundError, NotADirectoryError):
        raise DamagedError(f"{MANIFEST} is missing") from None
    except ValueError as error:
        raise DamagedError(f"{MANIFEST} is damaged: {error}") from None
    return content


def check_folder(folder: Path, deep: bool) -> dict[str, Any]:
    """Return the manifest of a folder that matches it.

    Parameters
    ----------
    deep
        Whether the SHA-256 of every file is compared too, beside its size.

    Raises
    ------
    DamagedError, OSError
        As `read_manifest`.
    """
    manifest = read_manifest(folder)
    for name, (size, sha256) in manifest["files"].items():
        file = folder / name
        try:
            present = file.stat().st_size
            changed = deep and present == size and file_digest(file) != sha256
        except (FileNotFoundError, NotADirectoryError):
            raise DamagedError(f"{name} is missing") from None
        if present != size:
            raise DamagedError(f"{name} has {present} bytes, not {size}")
        if changed:
            raise DamagedError(f"the SHA-256 of {name} has changed since it was written")
    return manifest
