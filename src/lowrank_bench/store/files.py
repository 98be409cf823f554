"""Atomic writes of single files: readers never see an incomplete one."""

import os
import tempfile
from pathlib import Path


def write_atomic(place: Path, content: bytes | str) -> None:
    """Write `content` to a temporary file next to `place`, then rename it to `place`."""
    data = content.encode() if isinstance(content, str) else content
    place.parent.mkdir(parents=True, exist_ok=True)
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
