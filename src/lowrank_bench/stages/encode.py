"""Rows as networks take them, encoded once for all jobs that read them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowrank_bench.inputs.modality import Encoded, Modality, modality_of
from lowrank_bench.plan.cells import Checkpoint
from lowrank_bench.plan.code import encoding_code
from lowrank_bench.stages.download import DataStep
from lowrank_bench.stages.runner import Runner
from lowrank_bench.store.digest import digest
from lowrank_bench.store.store import Store


@dataclass(frozen=True)
class EncodedStep:
    """The rows of a split, encoded for one processor.

    Attributes
    ----------
    split
        As `splits.split_and_range` reads it.
    limits
        Keep the first that many rows of the shuffle, one limit after another; None keeps all.
    """

    checkpoint: Checkpoint
    processor: Any
    split: str
    limits: tuple[int | None, ...] = ()

    def read(self, runner: Runner) -> Encoded:
        """Return the rows, with labels as the task numbers them."""
        modality = modality_of(self.checkpoint.modality)
        if modality.processor_name(self.processor) is None:  # encoded anew in every job
            return self._encode(runner, modality)
        return modality.read_encoded(runner.ensure(self))

    def lookup(self, store: Store) -> Path | None:
        """Return the folder with the encoded rows."""
        return store.folder("encoded", self._key(), deep=True)

    def make(self, runner: Runner) -> None:
        """Read the rows, encode and write them."""
        modality = modality_of(self.checkpoint.modality)
        facts = {"task": self.checkpoint.task, "split": self.split}
        encoded = self._encode(runner, modality)
        with runner.store.new_folder("encoded", self._key(), facts) as fresh:
            modality.write_encoded(encoded, fresh)

    def title(self) -> str:
        """Return a short name for messages."""
        return f"rows of {self.checkpoint.task} · {self.split}"

    def _encode(self, runner: Runner, modality: Modality) -> Encoded:
        from lowrank_bench.inputs.rows import read_split

        rows = read_split(runner.ensure(DataStep(self.checkpoint.data)), self.split, self.limits)
        return modality.encode(rows, self.processor, self.checkpoint.inputs)

    def _key(self) -> str:
        checkpoint = self.checkpoint
        modality = modality_of(checkpoint.modality)
        parts = [checkpoint.data.key, self.split, self.limits, dict(checkpoint.inputs)]
        name, code = modality.processor_name(self.processor), encoding_code(checkpoint.modality)
        return digest([*parts, name, code])


def training_rows(
    checkpoint: Checkpoint, runner: Runner, processor: Any, limit: int | None = None
) -> Encoded:
    """Return the rows that a checkpoint is trained on, with labels as the task numbers them.

    Held-out rows are left out, and the others limited as the recipe says.

    Parameters
    ----------
    limit
        Keep the first that many of their shuffle.
    """
    recipe = checkpoint.training_recipe
    limits = (recipe["train_limit"], limit)
    return EncodedStep(checkpoint, processor, recipe["train_split"], limits).read(runner)
