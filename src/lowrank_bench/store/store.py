"""A content-addressed store: every finished artifact is written once, as a whole, under its key.

Writers build an artifact next to its final path and rename it. Readers therefore never see an
incomplete one, and several writers (jobs, nodes, runs) may race: the first one wins, and the
others discard their copy.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from lowrank_bench.store.digest import file_digest
from lowrank_bench.store.files import write_atomic

MANIFEST = "manifest.json"
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

    def folder(self, kind: str, key: str, *, deep: bool = False) -> Path | None:
        """Return the folder of `key` if it is complete, else None.

        A folder with missing or truncated files is reported and removed. With `deep`, the SHA-256
        of every file is verified too, once per `Store` object.
        """
        place = self.place(kind, key)
        if not place.is_dir():
            return None
        deep = deep and place not in self._verified
        fault = _fault(place, deep)
        if fault is None:
            if deep:
                self._verified.add(place)
            return place
        self.discard(place, fault, lambda aside: _fault(aside, deep) is not None)
        return None

    def artifact(self, kind: str, key: str) -> Artifact | None:
        """Return the folder of `key` with its manifest if it is complete, else None.

        The SHA-256 of every file is verified once per `Store` object. A damaged folder is reported
        and removed.
        """
        folder = self.folder(kind, key, deep=True)
        return None if folder is None else Artifact(folder, self.manifest(folder))

    def manifest(self, folder: Path) -> dict[str, Any]:
        """Return the facts that the writer of a folder recorded in its manifest."""
        facts: dict[str, Any] = json.loads((folder / MANIFEST).read_text())["about"]
        return facts

    @contextmanager
    def new_folder(self, kind: str, key: str, facts: dict[str, Any]) -> Iterator[Path]:
        """Yield a new folder to fill; it becomes the artifact if the block raises no error.

        `facts` are written to the manifest after the block, which may still add to them.
        """
        place = self.place(kind, key)
        place.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=place.parent))
        try:
            yield fresh
            _write_manifest(fresh, facts)
            fresh.chmod(0o755)  # temporary folders are private, artifacts are shared
            self._settle(fresh, kind, key)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def write_file(self, kind: str, key: str, suffix: str, content: bytes) -> None:
        """Write an artifact that is a single file, atomically."""
        write_atomic(self.place(kind, key, suffix), content)

    def _settle(self, fresh: Path, kind: str, key: str) -> None:
        """Make a filled folder the artifact, unless another writer has already finished it."""
        for attempt in range(SETTLING):
            try:
                fresh.rename(self.place(kind, key))
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
        aside = place.with_name(f".{place.name}-{uuid4().hex}")
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


def _write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    files = {
        str(file.relative_to(folder)): [file.stat().st_size, file_digest(file)]
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    for name in files:
        (folder / name).chmod(0o644)
    content = {"about": facts, "files": files}
    (folder / MANIFEST).write_text(json.dumps(content, indent=1, sort_keys=True))


def _fault(folder: Path, deep: bool) -> str | None:
    """Return what is wrong with a folder, or None if it matches its manifest."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
    except (OSError, ValueError, KeyError):
        return f"{MANIFEST} is missing or damaged"
    for name, (size, sha256) in files.items():
        file = folder / name
        try:
            present = file.stat().st_size
            changed = deep and present == size and file_digest(file) != sha256
        except OSError:
            return f"{name} is missing"
        if present != size:
            return f"{name} has {present} bytes, not {size}"
        if changed:
            return f"the SHA-256 of {name} has changed since it was written"
    return None
