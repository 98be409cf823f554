"""Upkeep of a store: read everything in it, and find what nobody needs."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lowrank_bench.store.checksum import DamagedError
from lowrank_bench.store.holdings import Holdings
from lowrank_bench.store.store import CHECKS, Store, check

ABANDONED = 86400.0  # seconds after which a hidden file is nobody's work in progress


@dataclass(frozen=True)
class Entry:
    """An artifact, or what a killed job has left.

    Attributes
    ----------
    kind
        `cell`, `checkpoint`, …: the folder of the store that it lies in.
    """

    kind: str
    place: Path

    @property
    def key(self) -> str:
        """Its key in the store."""
        return self.place.name.partition(".")[0]

    def size(self) -> int:
        """Return its bytes on disk."""
        files = self.place.rglob("*") if self.place.is_dir() else [self.place]
        total = 0
        for file in files:
            try:
                total += file.stat().st_size if file.is_file() else 0
            except FileNotFoundError:  # another process works here
                continue
        return total


def artifacts(store: Store) -> Iterator[Entry]:
    """Yield everything that a store holds, in the order of kinds and keys."""
    for entry in _entries(store):
        if not entry.place.name.startswith("."):
            yield entry


def verify(store: Store, entry: Entry) -> str:
    """Read a whole artifact; report and remove it when it is not as it was written.

    Returns
    -------
    str
        What was wrong; empty for an intact artifact.
    """
    try:
        if not entry.place.is_dir() and entry.place.suffix not in CHECKS:
            return ""  # nothing that this package has written
        check(entry.place)
    except FileNotFoundError:  # another process has just removed it
        return ""
    except (DamagedError, OSError) as error:  # a file that cannot be read is lost as well
        if not entry.place.exists():
            return ""
        store.discard(entry.place, str(error))
        return str(error)
    return ""


def unneeded(store: Store, holdings: Holdings) -> Iterator[Entry]:
    """Yield what no experiment needs, and what killed jobs have left."""
    for entry in _entries(store):
        if entry.place.name.startswith("."):
            if _is_abandoned(entry.place):
                yield entry
        elif not holdings.need(entry.kind, entry.place):
            yield entry


def remove(entry: Entry) -> None:
    """Delete an artifact; a reader sees all of it or nothing."""
    aside = entry.place.with_name(f".removed-{entry.place.name}")
    entry.place.rename(aside)
    if aside.is_dir():
        shutil.rmtree(aside)
    else:
        aside.unlink()


def _entries(store: Store) -> Iterator[Entry]:
    for place in sorted(store.root.glob("[!.]*/??/*")):
        yield Entry(place.parent.parent.name, place)


def _is_abandoned(place: Path) -> bool:
    try:
        return time.time() - place.stat().st_mtime > ABANDONED
    except FileNotFoundError:
        return False
