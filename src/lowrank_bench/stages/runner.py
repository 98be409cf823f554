"""The one place where artifacts are found or made.

A stage reads its inputs, computes, and writes. It never makes what another stage makes: it asks
the runner, which looks the artifact up and, where it is missing or damaged, has its own stage make
it. A damaged artifact is reported and removed by the store when it is read. What the machine does
wrong meanwhile ends as a `TransientError`, which no stage takes for a result (`faults`). So does
whatever happens to work whose input was removed from the store, or replaced, while it was read:
what libraries say of half a folder is not to be told from what they say of a wrong one.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from lowrank_bench.errors import TransientError
from lowrank_bench.stages.faults import is_transient, transient
from lowrank_bench.stages.settings import Settings
from lowrank_bench.store.checksum import DamagedError
from lowrank_bench.store.manifest import check_folder
from lowrank_bench.store.store import Artifact, Store

ATTEMPTS = 3  # to make an artifact that is whole when it is read


Made = TypeVar("Made")
Made_co = TypeVar("Made_co", covariant=True)


class Step(Protocol[Made_co]):
    """One artifact and how it is made."""

    def lookup(self, store: Store) -> Made_co | None:
        """Return the whole artifact, or None where it is missing or damaged."""
        ...

    def make(self, runner: "Runner") -> None:
        """Read what the artifact is made from, compute, and write it."""
        ...

    def title(self) -> str:
        """Return a short name for messages."""
        ...


class Runner:
    """Finds artifacts in a store, and has those made that are missing.

    Parameters
    ----------
    store
        Where artifacts lie.
    settings
        How the stages compute: devices, precision, batch size.
    """

    def __init__(self, store: Store, settings: Settings | None = None) -> None:
        self.store, self.settings = store, settings or Settings()
        self._read: dict[Path, tuple[int, int]] = {}  # folders handed out, and which they were

    def ensure(self, step: Step[Made]) -> Made:
        """Return an artifact, after having it made where it is missing or damaged.

        Raises
        ------
        TransientError
            When the disk, the memory, a hub or another process failed, or what is written is
            damaged each time it is read.
        LowRankError
            When its stage refuses.
        """
        with self.watched(step.title):
            artifact = self._made(step)
            if isinstance(artifact, Artifact):
                self._read[artifact.folder] = _identity(artifact.folder)
            return artifact

    @contextmanager
    def watched(self, title: Callable[[], str]) -> Iterator[None]:
        """Turn what the machine or another process does wrong in a block into one kind of error.

        Parameters
        ----------
        title
            Returns what the block does, for the message.

        Raises
        ------
        TransientError
            As `ensure`, and when an artifact that this runner handed out is no longer as it was.
        """
        try:
            yield
        except TransientError:  # of a block inside this one
            raise
        except Exception as error:
            if is_transient(error, self.store.root):
                raise transient(error, title(), self.store.root) from error
            lost = [folder for folder, identity in self._read.items() if _is_lost(folder, identity)]
            if lost:
                raise TransientError(
                    f"{title()}: another process removed {lost[0]} while it was read; no result is "
                    "recorded, the same command resumes"
                ) from error
            raise

    def _made(self, step: Step[Made]) -> Made:
        artifact, attempts = step.lookup(self.store), 0
        while artifact is None:
            if attempts == ATTEMPTS:
                raise TransientError(
                    f"{step.title()}: what was written to {self.store.root} cannot be read back; "
                    "check the disk"
                )
            step.make(self)
            artifact, attempts = step.lookup(self.store), attempts + 1
        return artifact


def _identity(folder: Path) -> tuple[int, int]:
    """Return what tells a folder from another one of the same name; zeros for none."""
    try:
        facts = folder.stat()
    except FileNotFoundError:
        return 0, 0
    return facts.st_ino, facts.st_mtime_ns


def _is_lost(folder: Path, identity: tuple[int, int]) -> bool:
    """Return whether a folder is gone, another one, or not whole any more."""
    if identity == (0, 0) or _identity(folder) != identity:
        return True
    try:
        check_folder(folder, deep=False)
    except (DamagedError, FileNotFoundError):
        return True
    except OSError:  # which says nothing about it
        return False
    return False
