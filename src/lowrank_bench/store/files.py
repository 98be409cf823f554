"""Writes that survive a crash: readers never see an incomplete file, nor does a lost power supply.

A name that is on disk must lead to content that is on disk. So a file is synced before it gets
its name, and the folder that holds the name after.
"""

import errno
import os
import tempfile
from pathlib import Path

from lowrank_bench.store.checksum import check_signed, signed

# Of filesystems that sync no folders: some over a network, and some in user space.
_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


def write_atomic(place: Path, content: bytes | str) -> None:
    """Write `content` to a temporary file next to `place`, then rename it to `place`."""
    data = content.encode() if isinstance(content, str) else content
    make_folder(place.parent)
    handle, name = tempfile.mkstemp(prefix=f".{place.name}-", dir=place.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())  # the content must be on disk before the name is
        os.chmod(name, 0o644)
        os.replace(name, place)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync(place.parent)


def write_signed(place: Path, content: bytes) -> None:
    """Write `content` and its checksum atomically; `read_signed` reads it back."""
    write_atomic(place, signed(content))


def read_signed(place: Path) -> bytes:
    """Return what `write_signed` has written.

    Raises
    ------
    DamagedError
        When a bit has changed, or the file was cut short.
    """
    return check_signed(place.read_bytes())


def make_folder(place: Path) -> None:
    """Make a folder and its parents, each on disk when this returns."""
    if place.is_dir():
        return
    make_folder(place.parent)
    place.mkdir(exist_ok=True)
    sync(place.parent)


def sync(place: Path) -> None:
    """Have a file's content, or the names in a folder, written to disk."""
    handle = os.open(place, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Have everything below a folder written to disk, and the folder itself."""
    for place in folder.rglob("*"):
        sync(place)
    sync(folder)
