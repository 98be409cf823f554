"""Facts about the rows of a checkpoint's embedding: computed once and kept in the store."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from lowrank_bench.device import best_device
from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.modality import modality_of
from lowrank_bench.plan.cells import Checkpoint
from lowrank_bench.plan.code import fact_sources
from lowrank_bench.stages.checkpoint import CheckpointStep, load_checkpoint
from lowrank_bench.stages.encode import training_rows
from lowrank_bench.stages.runner import Runner
from lowrank_bench.store.digest import digest
from lowrank_bench.store.store import Artifact, Store

FILE = "facts.safetensors"
BATCH_TOKENS = 4096


@dataclass(frozen=True)
class FactStep:
    """One fact about the rows of an embedding: `frequency`, `counts` or `fisher`.

    Attributes
    ----------
    rows
        Rows of the embedding.
    """

    checkpoint: Checkpoint
    name: str
    rows: int

    def lookup(self, store: Store) -> Artifact | None:
        """Return the fact."""
        return store.artifact("facts", self._key())

    def make(self, runner: Runner) -> None:
        """Compute the fact.

        Raises
        ------
        LowRankError
            When the tokenizer has no order of frequency, or does not fit the embedding.
        """
        makers = {"frequency": self._frequency, "counts": self._counts, "fisher": self._fisher}
        values = makers[self.name](runner)
        facts = {"checkpoint": self.checkpoint.title(), "fact": self.name}
        with runner.store.new_folder("facts", self._key(), facts) as fresh:
            save_file({self.name: values}, fresh / FILE)

    def title(self) -> str:
        """Return a short name for messages."""
        return f"{self.checkpoint.title()} · {self.name}"

    def _key(self) -> str:
        code = fact_sources(self.name, self.checkpoint.modality).digest()
        return digest([self.checkpoint.key, self.name, self.rows, code])

    def _frequency(self, runner: Runner) -> Tensor:
        from lowrank_bench.inputs.text.vocabulary import vocabulary_frequency

        return vocabulary_frequency(self._tokenizer(runner), self.rows)

    def _counts(self, runner: Runner) -> Tensor:
        from lowrank_bench.inputs.text.counts import token_counts

        modality = modality_of(self.checkpoint.modality)
        tokenizer = self._tokenizer(runner)
        encoded: Any = training_rows(self.checkpoint, runner, modality, tokenizer)
        return token_counts([encoded.tokens["input_ids"]], self.rows)

    def _fisher(self, runner: Runner) -> Tensor:
        if self.checkpoint.modality == "similarity":
            raise LowRankError(
                f"the Fisher information is that of a loss, and {self.checkpoint.task} has none: "
                "its networks are used as they are; leave out methods that need it"
            )
        from lowrank_bench.factorize.fisher import fisher_information

        loaded = load_checkpoint(self.checkpoint, runner)
        encoded: Any = loaded.training_rows(runner)
        network = (loaded.model, loaded.processor, encoded)
        return fisher_information(*network, BATCH_TOKENS, best_device(), self.checkpoint.seed)

    def _tokenizer(self, runner: Runner) -> Any:
        from lowrank_bench.inputs.checked import load_tokenizer

        return load_tokenizer(runner.ensure(CheckpointStep(self.checkpoint)).folder)


def row_facts(
    checkpoint: Checkpoint, runner: Runner, needs: Iterable[str], rows: int
) -> dict[str, Tensor]:
    """Return the named facts about an embedding of `rows` rows, n float64 each."""
    facts = {name: runner.ensure(FactStep(checkpoint, name, rows)) for name in needs}
    return {name: load_file(fact.folder / FILE)[name] for name, fact in facts.items()}
