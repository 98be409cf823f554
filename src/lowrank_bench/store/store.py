"""A content-addressed store: every finished artifact is written once, whole, under its key.

Writers build an artifact beside its place and rename it, so that a reader never sees half of one
and several writers (jobs, nodes, runs) may race: whoever comes second finds the work done.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from lowrank_bench.store.digest import file_digest

MANIFEST = "manifest.json"
SETTLING = 20  # attempts to put an artifact in its place


class Store:
    """Artifacts under `root/<kind>/<first two digits>/<key>`: folders, or single files.

    Parameters
    ----------
    root
        Folder of the store; made when first written to.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._verified: set[Path] = set()

    def place(self, kind: str, key: str, suffix: str = "") -> Path:
        """Return where the artifact lies or would lie."""
        return self.root / kind / key[:2] / f"{key}{suffix}"

    def folder(self, kind: str, key: str, *, deep: bool = False) -> Path | None:
        """Return the complete folder of `key`, or None.

        A folder whose files are missing or cut short is reported, removed and counts as absent;
        with `deep` the SHA-256 of every file is compared as well, once by each `Store`.
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

    def manifest(self, folder: Path) -> dict[str, Any]:
        """Return what the writer of a folder noted about it."""
        return json.loads((folder / MANIFEST).read_text())["about"]

    @contextmanager
    def new_folder(self, kind: str, key: str, about: dict[str, Any]) -> Iterator[Path]:
        """Give a fresh folder to fill; when the block ends well it becomes the artifact.

        `about` may be extended inside the block; it is written to the folder's manifest.
        """
        place = self.place(kind, key)
        place.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=place.parent))
        try:
            yield fresh
            _write_manifest(fresh, about)
            fresh.chmod(0o755)
            self._settle(fresh, kind, key)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def _settle(self, fresh: Path, kind: str, key: str) -> None:
        """Make a filled folder the artifact, unless another writer's whole one is there."""
        for attempt in range(SETTLING):
            try:
                fresh.rename(self.place(kind, key))
                return
            except OSError:  # another writer finished first; what it left may be broken
                if self.folder(kind, key):
                    return
                if attempt == SETTLING - 1:
                    raise

    def discard(
        self, place: Path, fault: str, is_broken: Callable[[Path], bool] = lambda aside: True
    ) -> None:
        """Remove a broken artifact and say so on stderr.

        It is moved aside in one step, so that a whole one can take its place at once. Another
        process may have done that already: what `is_broken` clears goes back to its place.
        """
        self._verified.discard(place)
        aside = place.with_name(f".{place.name}-{uuid4().hex}")
        try:
            place.rename(aside)
        except FileNotFoundError:  # another process removed it
            return
        if not is_broken(aside) and not place.exists():
            with suppress(OSError):  # a whole one is there
                aside.rename(place)
                return
        print(f"warning: {place}: {fault}; it is computed again", file=sys.stderr, flush=True)
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink(missing_ok=True)


def _write_manifest(folder: Path, about: dict[str, Any]) -> None:
    files = {
        str(file.relative_to(folder)): [file.stat().st_size, file_digest(file)]
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    for name in files:
        (folder / name).chmod(0o644)
    content = {"about": about, "files": files}
    (folder / MANIFEST).write_text(json.dumps(content, indent=1, sort_keys=True))


def _fault(folder: Path, deep: bool) -> str | None:
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
    except (OSError, ValueError, KeyError):
        return f"{MANIFEST} is missing or damaged"
    for name, (size, sha256) in files.items():
        file = folder / name
        try:
            found = file.stat().st_size
            changed = deep and found == size and file_digest(file) != sha256
        except OSError:
            return f"{name} is missing"
        if found != size:
            return f"{name} has {found} bytes, not {size}"
        if changed:
            return f"{name} has another SHA-256 than when it was written"
    return None
