"""Check where `lowrank compress` is to write, before the work that would be lost."""

import tempfile
from pathlib import Path

from lowrank_bench.errors import LowRankError


def check_out(out: Path) -> None:
    """Check that a network can be written to a folder, and leave nothing behind.

    A network that `lowrank compress` wrote there before may be replaced, as `artifact.save` does.

    Raises
    ------
    LowRankError
        When it holds other files, or cannot be made or written.
    """
    if out.exists() and not _may_be_replaced(out):
        raise LowRankError(f"OUT {out} holds other files; choose a new or an empty folder")
    parent = next(place for place in out.absolute().parents if place.exists())
    try:  # permissions alone do not tell of read-only disks
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=parent):
            pass
    except OSError as error:
        raise LowRankError(
            f"OUT {out} cannot be written: no folder can be made in {parent} "
            f"({error.strerror or error}); choose another place"
        ) from None


def _may_be_replaced(out: Path) -> bool:
    if not out.is_dir():
        return False
    if not any(out.iterdir()):
        return True
    from lowrank_bench.artifact import MANIFEST

    return (out / MANIFEST).is_file()
