"""A content-addressed store: every finished artifact is written once, as a whole, under its key.

Writers build an artifact next to its final path and rename it. Readers therefore never see an
incomplete one, and several writers (jobs, nodes, runs) may race: the first one wins, and the
others discard their copy. What is read is compared with the checksum that was written with it.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from lowrank_bench.store.checksum import DamagedError, check_sealed, check_signed, sealed
from lowrank_bench.store.files import make_folder, sync, sync_tree, write_atomic
from lowrank_bench.store.manifest import check_folder, read_manifest, write_manifest

# How artifacts that are single files carry their checksums, by suffix.
CHECKS = {".safetensors": check_sealed, ".pt": check_signed}
SETTLING = 20  # attempts to rename an artifact to its final path


@dataclass(frozen=True)
class Artifact:
    """A complete and verified folder of the store, with the facts that its writer recorded."""

    folder: Path
    manifest: dict[str, Any]


class Store:
    """Artifacts under `root/<kind>/<first two digits>/<key>`: folders, or single files.

    Parameters
    ----------
    root
        Folder of the store; created by the first write.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._verified: set[Path] = set()

    def place(self, kind: str, key: str, suffix: str = "") -> Path:
        """Return the path of an artifact, whether it exists or not."""
        return self.root / kind / key[:2] / f"{key}{suffix}"

    def holds(self, kind: str, key: str, suffix: str = "") -> bool:
        """Return whether an artifact is there, without a look into it; quick, for very many."""
        return os.path.exists(f"{self.root}/{kind}/{key[:2]}/{key}{suffix}")

    def folder(self, kind: str, key: str, *, deep: bool = False) -> Path | None:
        """Return the folder of `key` if it is complete, else None.

        A folder whose manifest is damaged, or with missing or truncated files, is reported and
        removed. With `deep`, the SHA-256 of every file is verified too, once per `Store` object.

        Raises
        ------
        OSError
            When it cannot be read now, which is no reason to remove it.
        """
        place = self.place(kind, key)
        if not place.is_dir():
            return None
        deep = deep and place not in self._verified
        try:
            check_folder(place, deep)
        except DamagedError as fault:
            self.discard(place, str(fault), lambda aside: _is_damaged(aside, deep))
            return None
        if deep:
            self._verified.add(place)
        return place

    def artifact(self, kind: str, key: str) -> Artifact | None:
        """Return the folder of `key` with its manifest if it is complete, else None.

        The SHA-256 of every file is verified once per `Store` object. A damaged folder is reported
        and removed.
        """
        folder = self.folder(kind, key, deep=True)
        return None if folder is None else Artifact(folder, self.manifest(folder))

    def manifest(self, folder: Path) -> dict[str, Any]:
        """Return the facts that the writer of a folder recorded in its manifest."""
        facts: dict[str, Any] = read_manifest(folder)["about"]
        return facts

    @contextmanager
    def new_folder(self, kind: str, key: str, facts: dict[str, Any]) -> Iterator[Path]:
        """Yield a new folder to fill; it becomes the artifact if the block raises no error.

        `facts` are written to the manifest after the block, which may still add to them. When the
        artifact has its name, all of it is on disk.
        """
        place = self.place(kind, key)
        make_folder(place.parent)
        fresh = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=place.parent))
        try:
            yield fresh
            write_manifest(fresh, facts)
            fresh.chmod(0o755)  # temporary folders are private, artifacts are shared
            self.settle(fresh, kind, key)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def write_file(self, kind: str, key: str, suffix: str, content: bytes) -> None:
        """Seal an artifact that is a single file (`checksum.sealed`), and write it atomically."""
        write_atomic(self.place(kind, key, suffix), sealed(content))

    def read_file(self, kind: str, key: str, suffix: str) -> bytes | None:
        """Return a single file that matches its checksum, else None.

        A damaged one is reported and removed.

        Raises
        ------
        OSError
            When it cannot be read now, which is no reason to remove it.
        """
        place = self.place(kind, key, suffix)
        try:
            return CHECKS[suffix](place.read_bytes())
        except FileNotFoundError:
            return None
        except DamagedError as fault:
            self.discard(place, f"damaged or cut short: {fault}", _is_damaged)
            return None

    def check_writable(self) -> None:
        """Write and remove a small file, before work whose result could not be written.

        Raises
        ------
        OSError
            When the store is read-only, its disk is full, or the like.
        """
        make_folder(self.root)
        with tempfile.NamedTemporaryFile(prefix=".probe-", dir=self.root) as probe:
            probe.write(bytes(4096))

    def settle(self, fresh: Path, kind: str, key: str) -> None:
        """Make a filled folder the artifact, unless another writer has already finished it."""
        sync_tree(fresh)
        place = self.place(kind, key)
        for attempt in range(SETTLING):
            try:
                fresh.rename(place)
                sync(place.parent)
                return
            except OSError:  # another writer was first; `folder` removes its result if damaged
                if self.folder(kind, key):
                    return
                if attempt == SETTLING - 1:
                    raise

    def discard(
        self, place: Path, fault: str, is_broken: Callable[[Path], bool] = lambda aside: True
    ) -> None:
        """Remove a damaged artifact and report it on stderr.

        The artifact is renamed first, so that an intact one can replace it at any time. Another
        process may already have replaced it: if `is_broken` finds it intact, it is renamed back.
        """
        self._verified.discard(place)
        aside = place.with_name(f".{uuid4().hex}-{place.name}")  # with its suffix
        try:
            place.rename(aside)
        except FileNotFoundError:  # another process has removed it
            return
        if not is_broken(aside) and not place.exists():
            with suppress(OSError):  # fails if there is an intact one by now
                aside.rename(place)
                return
        print(f"warning: {place}: {fault}; it will be recomputed", file=sys.stderr, flush=True)
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink(missing_ok=True)


def check(place: Path) -> None:
    """Compare everything in an artifact with its checksums.

    Raises
    ------
    DamagedError
        When anything is not as it was written.
    OSError
        When it cannot be read, or no longer exists.
    """
    if place.is_dir():
        check_folder(place, deep=True)
    else:
        CHECKS[place.suffix](place.read_bytes())


def _is_damaged(place: Path, deep: bool = True) -> bool:
    try:
        if place.is_dir():
            check_folder(place, deep)
        else:
            check(place)
    except DamagedError:
        return True
    except OSError:  # what cannot be read is left to the next look
        return False
    return False
