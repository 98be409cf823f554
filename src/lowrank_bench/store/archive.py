"""Artifacts on their way to another machine: one tar, out of a store and into one.

What comes in is not trusted. Only names that a store would give are accepted, only plain files, and
only artifacts that match their checksums; each is unpacked into a folder of its own and renamed.
Checksums find damage, not malice: import what comes from people you trust.
"""

import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import IO

from lowrank_bench.errors import LowRankError
from lowrank_bench.store.checksum import DamagedError
from lowrank_bench.store.files import make_folder, write_atomic
from lowrank_bench.store.manifest import MANIFEST, check_folder, read_manifest
from lowrank_bench.store.store import CHECKS, Store
from lowrank_bench.store.upkeep import Entry

PLACE = re.compile(r"([a-z]{1,32})/([0-9a-f]{2})/([0-9a-f]{8,64})(\.[a-z]{2,16})?(?:/(.+))?")
LONGEST = 255  # of one part of a name
Member = tuple[re.Match[str], tarfile.TarInfo]


def export(store: Store, entries: Iterable[Entry], out: Path) -> int:
    """Write intact artifacts to a tar, whole or not at all, and return the number of its bytes.

    Equal artifacts give equal bytes: no times, owners or modes are written.
    """
    with tempfile.NamedTemporaryFile(prefix=f".{out.name}-", dir=out.parent, delete=False) as file:
        try:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                for entry in entries:
                    _pack(tar, store.root, entry.place)
            size = file.tell()
            Path(file.name).chmod(0o644)
            Path(file.name).replace(out)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    return size


def unpack(store: Store, archive: Path) -> Iterator[tuple[str, str]]:
    """Bring the artifacts of a tar into a store, one after the other.

    Yields
    ------
    tuple
        The name of an artifact, and what became of it: `new`, `known` when the store held it, or
        else why it was refused.

    Raises
    ------
    LowRankError
        Before anything is written: when the file is no tar, or any name in it leads elsewhere or
        is not that of a plain file.
    """
    try:
        with tarfile.open(archive, "r:") as tar:
            members = list(_members(tar, archive))
            for name, group in groupby(members, lambda member: _name(member[0])):
                yield name, _adopt(store, tar, list(group))
    except tarfile.TarError as error:
        raise LowRankError(
            f"{archive} is no tar that `lowrank store export` wrote ({error}); export it again"
        ) from None


def _pack(tar: tarfile.TarFile, root: Path, place: Path) -> None:
    files = sorted(file for file in place.rglob("*") if file.is_file())
    for file in files if place.is_dir() else [place]:
        info = tarfile.TarInfo(file.relative_to(root).as_posix())
        info.size = file.stat().st_size
        with file.open("rb") as stream:
            tar.addfile(info, stream)


def _members(tar: tarfile.TarFile, archive: Path) -> Iterator[Member]:
    """Yield all members with their names taken apart, and refuse those no store would have."""
    seen: set[str] = set()
    end = -1
    for member in tar:
        match = PLACE.fullmatch(member.name)
        plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
        # A negative size would lead the reader back, for ever.
        forward = member.size >= 0 and member.offset_data > end
        if not (match and plain and forward and _is_safe(match)) or member.name in seen:
            raise LowRankError(
                f"{archive}: {member.name[:80]!r} is no file of a store; nothing was imported"
            )
        seen.add(member.name)
        end = member.offset_data
        yield match, member


def _is_safe(match: re.Match[str]) -> bool:
    """Return whether a name stays inside the folder of its artifact."""
    _, shard, key, suffix, inside = match.groups()
    if key[:2] != shard or bool(suffix) == bool(inside) or (suffix and suffix not in CHECKS):
        return False
    parts = (inside or "file").split("/")
    return all(
        part not in ("", ".", "..") and len(part) <= LONGEST and part.isprintable()
        for part in parts
    ) and "\\" not in (inside or "")


def _name(match: re.Match[str]) -> str:
    kind, shard, key, suffix, _ = match.groups()
    return f"{kind}/{shard}/{key}{suffix or ''}"


def _adopt(store: Store, tar: tarfile.TarFile, members: list[Member]) -> str:
    """Take one artifact into the store if it is whole; return what became of it."""
    kind, _, key, suffix, _ = members[0][0].groups()
    try:
        if suffix:
            if store.read_file(kind, key, suffix) is not None:
                return "known"
            content = _stream(tar, members[0][1]).read()
            CHECKS[suffix](content)
            write_atomic(store.place(kind, key, suffix), content)
            return "new"
        if store.folder(kind, key, deep=True):
            return "known"
        _adopt_folder(store, tar, members)
    except DamagedError as error:
        return str(error)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return "its manifest is none of a store"
    except (FileExistsError, NotADirectoryError):
        return "one of its files is a folder of another"
    return "new"


def _adopt_folder(store: Store, tar: tarfile.TarFile, members: list[Member]) -> None:
    kind, _, key, _, _ = members[0][0].groups()
    parent = store.place(kind, key).parent
    make_folder(parent)
    fresh = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=parent))
    try:
        for match, member in members:
            file = fresh / match[5]
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("xb") as target:
                shutil.copyfileobj(_stream(tar, member), target)
            file.chmod(0o644)
        # Before any file is looked at: a name in the manifest may lead out of the folder.
        if {*read_manifest(fresh)["files"], MANIFEST} != {match[5] for match, _ in members}:
            raise DamagedError("its files are not those of its manifest")
        dict(check_folder(fresh, deep=True)["about"])
        fresh.chmod(0o755)
        store.settle(fresh, kind, key)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _stream(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    stream = tar.extractfile(member)
    assert stream is not None  # a plain file, as `_members` has checked
    return stream
