"""Check the output folder of `lowrank compress` before the work starts."""

import tempfile
from pathlib import Path

from lowrank_bench.errors import LowRankError


def check_out(out: Path) -> None:
    """Check that a network can be written to a folder, without leaving anything there.

    A network that `lowrank compress` wrote there before may be replaced; `artifact.save` does so.

    Raises
    ------
    LowRankError
        When the folder has other files in it, or cannot be made or written.
    """
    if out.exists() and not _may_be_replaced(out):
        raise LowRankError(f"OUT {out} holds other files; choose a new or an empty folder")
    parent = next(place for place in out.absolute().parents if place.exists())
    try:  # permissions do not show that a disk is read-only
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=parent):
            pass
    except OSError as error:
        raise LowRankError(
            f"OUT {out} cannot be written: {parent} takes no new folder "
            f"({error.strerror or error}); choose another place"
        ) from None


def _may_be_replaced(out: Path) -> bool:
    if not out.is_dir():
        return False
    if not any(out.iterdir()):
        return True
    from lowrank_bench.artifact import MANIFEST

    return (out / MANIFEST).is_file()
