"""Rows encoded for networks, once for all jobs that read them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lowrank_bench.inputs.modality import Encoded, Modality
from lowrank_bench.plan.cells import Checkpoint
from lowrank_bench.stages.download import DataStep
from lowrank_bench.stages.runner import Runner
from lowrank_bench.store.digest import digest
from lowrank_bench.store.store import Artifact, Store


@dataclass(frozen=True)
class EncodedStep:
    """The rows of a split, encoded for one processor.

    Attributes
    ----------
    split
        As `splits.split_and_range` reads it.
    limits
        Keep this many rows of the shuffle, one limit after another; None keeps all.
    """

    checkpoint: Checkpoint
    modality: Modality
    processor: Any
    split: str
    limits: tuple[int | None, ...] = ()

    def read(self, runner: Runner) -> Encoded:
        """Return the rows, with labels as the task numbers them."""
        if self._key is None:  # encoded anew in every job
            return self._encode(runner)
        return self.modality.read_encoded(runner.ensure(self).folder)

    def lookup(self, store: Store) -> Artifact | None:
        """Return the encoded rows."""
        assert self._key is not None
        return store.artifact("encoded", self._key)

    def make(self, runner: Runner) -> None:
        """Read the rows, encode and write them."""
        assert self._key is not None
        facts = {"task": self.checkpoint.task, "split": self.split}
        encoded = self._encode(runner)
        with runner.store.new_folder("encoded", self._key, facts) as fresh:
            self.modality.write_encoded(encoded, fresh)

    def title(self) -> str:
        """Return a short name for messages."""
        return f"rows of {self.checkpoint.task} · {self.split}"

    def _encode(self, runner: Runner) -> Encoded:
        from lowrank_bench.inputs.rows import read_split

        data = runner.ensure(DataStep(self.checkpoint.data, check=False))
        rows = read_split(data.folder, self.split, self.limits)
        return self.modality.encode(rows, self.processor, self.checkpoint.inputs)

    @cached_property
    def _key(self) -> str | None:
        """Key in the store; None where encoding takes less time than reading."""
        checkpoint, name = self.checkpoint, self.modality.processor_name(self.processor)
        if name is None:
            return None
        parts = [checkpoint.data.key, self.split, self.limits, dict(checkpoint.inputs)]
        return digest([*parts, name, checkpoint.encoding])


def training_rows(
    checkpoint: Checkpoint,
    runner: Runner,
    modality: Modality,
    processor: Any,
    limit: int | None = None,
) -> Encoded:
    """Return the rows that a checkpoint is trained on, with labels as the task numbers them.

    Held-out rows are left out, and the others limited as the recipe says.

    Parameters
    ----------
    limit
        Keep this many of them, the first of their shuffle.
    """
    recipe = checkpoint.training_recipe
    limits = (recipe["train_limit"], limit)
    return EncodedStep(checkpoint, modality, processor, recipe["train_split"], limits).read(runner)
