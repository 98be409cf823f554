"""The one place where artifacts are found or made.

A stage reads its inputs, computes, and writes. It never makes what another stage makes: it asks
the runner, which looks the artifact up and, where it is missing or damaged, has its own stage make
it. A damaged artifact is reported and removed by the store when it is read.
"""

from pathlib import Path
from typing import Protocol

from lowrank_bench.errors import LowRankError
from lowrank_bench.stages.settings import Settings
from lowrank_bench.store.store import Store

ATTEMPTS = 3  # to make an artifact that is whole when it is read


class Step(Protocol):
    """One artifact and how it is made."""

    def lookup(self, store: Store) -> Path | None:
        """Return where the whole artifact lies, or None."""

    def make(self, runner: "Runner") -> None:
        """Read what the artifact is made from, compute, and write it."""

    def title(self) -> str:
        """Return a short name for messages."""


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

    def ensure(self, step: Step) -> Path:
        """Return where an artifact lies, after making it where it is missing.

        Raises
        ------
        LowRankError
            When its stage refuses, or what it writes is damaged each time.
        """
        for _ in range(ATTEMPTS):
            place = step.lookup(self.store)
            if place is not None:
                return place
            step.make(self)
        place = step.lookup(self.store)
        if place is None:
            raise LowRankError(
                f"{step.title()}: what was written to {self.store.root} cannot be read back; check "
                "the disk"
            )
        return place
