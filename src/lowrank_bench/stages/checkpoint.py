"""The checkpoint stage: networks trained on one task, published ones, or networks as they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lowrank_bench.checkpoint.train import train_checkpoint
from lowrank_bench.device import best_device
from lowrank_bench.inputs.held_out import held_out_loss
from lowrank_bench.inputs.modality import Encoded, Modality, modality_of
from lowrank_bench.inputs.rows import with_outputs
from lowrank_bench.inputs.training_loop import OnStep, Watch
from lowrank_bench.plan.cells import Checkpoint
from lowrank_bench.stages.download import NetworkStep
from lowrank_bench.stages.encode import EncodedStep, training_rows
from lowrank_bench.stages.runner import Runner
from lowrank_bench.store.provenance import provenance
from lowrank_bench.store.store import Artifact, Store


@dataclass(frozen=True)
class CheckpointStep:
    """The checkpoint of one network, task and seed.

    Attributes
    ----------
    on_step
        Called with step, number of steps and loss while it is trained.
    """

    checkpoint: Checkpoint
    on_step: OnStep | None = None

    def lookup(self, store: Store) -> Artifact | None:
        """Return network and processor."""
        return store.artifact("checkpoint", self.checkpoint.key)

    def make(self, runner: Runner) -> None:
        """Train the network, or take the published one, or the network as it is.

        Raises
        ------
        LowRankError
            When the network cannot be loaded, its label map disagrees with the task, training
            diverges, or a weight is not finite.
        """
        checkpoint = self.checkpoint
        modality, title = modality_of(checkpoint.modality), checkpoint.title()
        facts: dict[str, Any] = {"checkpoint": title, "recipe": dict(checkpoint.recipe)}
        folder = _network_folder(checkpoint, runner)
        if "published_labels" in checkpoint.recipe:
            assert folder is not None  # published networks are fetched
            spec, inputs = checkpoint.network.spec, checkpoint.inputs
            model, processor, order = modality.published_network(
                spec, folder, inputs, checkpoint.recipe, title
            )
            facts["output_order"] = order
        elif "epochs" in checkpoint.recipe:
            model, processor = self._trained(runner, folder, facts)
        else:
            model, processor = self._initial(folder)
        facts |= modality.check_network(model, title) | provenance()
        with runner.store.new_folder("checkpoint", checkpoint.key, facts) as fresh:
            modality.save_network(model.to("cpu"), processor, fresh)

    def title(self) -> str:
        """Return a short name for messages."""
        return self.checkpoint.title()

    def _initial(self, folder: Path | None) -> tuple[nn.Module, Any]:
        """Return the network before any training, and its processor."""
        checkpoint = self.checkpoint
        modality, spec = modality_of(checkpoint.modality), checkpoint.network.spec
        return modality.initial_network(spec, folder, checkpoint.inputs, checkpoint.seed)

    def _trained(
        self, runner: Runner, folder: Path | None, facts: dict[str, Any]
    ) -> tuple[nn.Module, Any]:
        checkpoint = self.checkpoint
        modality, seed = modality_of(checkpoint.modality), checkpoint.seed
        model, processor = self._initial(folder)
        rows = training_rows(checkpoint, runner, modality, processor)
        watch = watch_for(checkpoint, runner, (modality, processor), checkpoint.key, self.on_step)
        settings = (checkpoint.recipe, seed, best_device(), watch)
        facts |= train_checkpoint(modality, model, processor, rows, *settings)
        return model, processor


def _network_folder(checkpoint: Checkpoint, runner: Runner) -> Path | None:
    """Return the files of the network that training starts from; None for one built in place."""
    if not checkpoint.network.is_fetched:
        return None
    return runner.ensure(NetworkStep(checkpoint.network)).folder


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint in memory.

    Attributes
    ----------
    modality
        Loads, encodes, predicts and trains for its kind of input.
    model
        Float32, in evaluation mode, on the CPU.
    processor
        Its tokenizer, or how its images are prepared.
    output_order
        For each label of the task the number of its output; None when they agree.
    """

    checkpoint: Checkpoint
    modality: Modality
    model: nn.Module
    processor: Any
    output_order: Sequence[int] | None

    def training_rows(self, runner: Runner, limit: int | None = None) -> Encoded:
        """Return the rows it was trained on, with labels as its outputs are numbered."""
        rows = training_rows(self.checkpoint, runner, self.modality, self.processor, limit)
        labels: Sequence[str] = self.checkpoint.inputs["labels"]
        encoded: Encoded = with_outputs(rows, labels, self.output_order)
        return encoded


def load_checkpoint(checkpoint: Checkpoint, runner: Runner) -> LoadedCheckpoint:
    """Read a checkpoint from the store."""
    stored = runner.ensure(CheckpointStep(checkpoint))
    modality = modality_of(checkpoint.modality)
    model, processor = modality.load_network(stored.folder)
    order = stored.manifest.get("output_order")
    return LoadedCheckpoint(checkpoint, modality, model, processor, order)


def watch_for(
    checkpoint: Checkpoint,
    runner: Runner,
    inputs: tuple[Modality, Any],
    key: str,
    on_step: OnStep | None = None,
    output_order: Sequence[int] | None = None,
) -> Watch:
    """Return what watches a training: held-out rows if it may stop early, a file to resume from.

    Parameters
    ----------
    inputs
        The modality, and the tokenizer or how images are prepared.
    key
        Key of what the training makes.
    output_order
        For each label of the task the number of its output; None when they agree.
    """
    recipe = checkpoint.training_recipe
    file = runner.store.place("unfinished", key, ".pt")
    if not recipe.get("patience"):
        return Watch(on_step, file=file)
    rows = EncodedStep(checkpoint, *inputs, recipe["held_out_split"]).read(runner)
    rows = with_outputs(rows, checkpoint.inputs["labels"], output_order)
    held_out = held_out_loss(*inputs, rows)
    return Watch(on_step, held_out, recipe["patience"], file)
