"""The one place where artifacts are found or made.

A stage reads its inputs, computes, and writes. It never makes what another stage makes: it asks
the runner, which looks the artifact up and, where it is missing or damaged, has its own stage make
it. A damaged artifact is reported and removed by the store when it is read. What the machine does
wrong meanwhile ends as a `TransientError`, which no stage takes for a result (`faults`).
"""

from typing import Protocol, TypeVar

from lowrank_bench.errors import TransientError
from lowrank_bench.stages.faults import is_transient, transient
from lowrank_bench.stages.settings import Settings
from lowrank_bench.store.store import Store

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
        try:
            return self._made(step)
        except TransientError:  # of a step inside this one
            raise
        except Exception as error:
            if is_transient(error, self.store.root):
                raise transient(error, step.title(), self.store.root) from error
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
