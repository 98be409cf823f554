"""What the pipeline asks of a kind of input; `text` and `image` are the two there are.

A modality is a module with the functions of `Modality`. Everything above them (checkpoints,
evaluation, training after compression, calibration) is the same for texts and images.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

    from lowrank_bench.inputs.sources import InputSources
    from lowrank_bench.inputs.training_loop import Watch

# Modality → its package, which declares its sources, and the module in it with the functions.
PACKAGES = {
    "text": ("lowrank_bench.inputs.text", "text"),
    "image": ("lowrank_bench.inputs.vision", "image"),
}


class Encoded(Protocol):
    """The rows of a split as the network takes them; its class depends on the modality."""

    labels: np.ndarray

    def __len__(self) -> int:
        """Return the number of rows."""


class Modality(Protocol):
    """The functions of a modality. A `processor` is a tokenizer, or how pixels are normalised."""

    def initial_network(
        self, spec: Mapping[str, Any], folder: Path | None, inputs: Mapping[str, Any], seed: int
    ) -> tuple["nn.Module", Any]:
        """Return the network and its processor before training.

        Parameters
        ----------
        spec
            Where the network comes from, as `config.entries` has it.
        folder
            Its files, where it was fetched; None for one that is built here.
        inputs
            How rows become features and labels: `columns`, `label`, `labels`, and more.
        seed
            Decides the weights that are drawn.
        """

    def published_network(
        self,
        spec: Mapping[str, Any],
        folder: Path,
        inputs: Mapping[str, Any],
        recipe: Mapping[str, Any],
        title: str,
    ) -> tuple["nn.Module", Any, list[int] | None]:
        """Return a network that others trained, its processor, and its order of outputs.

        The order has the number of the output that means each label; None when they agree.
        `recipe` holds what the configuration says of the network.
        """

    def check_network(self, model: "nn.Module", title: str) -> dict[str, Any]:
        """Refuse a network that cannot be compressed; return what the manifest says of it."""

    def save_network(self, model: "nn.Module", processor: Any, folder: Path) -> None:
        """Write network and processor to a folder."""

    def load_network(self, folder: Path) -> tuple["nn.Module", Any]:
        """Return network and processor, float32, in evaluation mode, on the CPU."""

    def encode(self, rows: "pd.DataFrame", processor: Any, inputs: Mapping[str, Any]) -> Encoded:
        """Return rows as the network takes them, with their labels."""

    def example(self, processor: Any, length: int) -> dict[str, "Tensor"]:
        """Return the keyword arguments of a forward of one row: a text of `length`, or an image."""

    def processor_name(self, processor: Any) -> list[Any] | None:
        """Return what decides how rows are encoded; None: encode them anew in every job."""

    def write_encoded(self, encoded: Encoded, folder: Path) -> None:
        """Write encoded rows to a folder."""

    def read_encoded(self, folder: Path) -> Encoded:
        """Return encoded rows, mapped into memory."""

    def predict(
        self,
        model: "nn.Module",
        processor: Any,
        encoded: Encoded,
        max_tokens: int,
        device: str = "cpu",
        output_order: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Return the logits of every row, n×labels float32, in the order of the labels."""

    def train(
        self,
        model: "nn.Module",
        processor: Any,
        encoded: Encoded,
        recipe: Mapping[str, Any],
        seed: int,
        device: str = "cpu",
        watch: "Watch | None" = None,
    ) -> dict[str, Any]:
        """Train a network in place; return what `training_loop.Training.run` does."""

    def batches(
        self, encoded: Encoded, processor: Any, rows: Sequence[int], device: str, batch_size: int
    ) -> Iterator[tuple[dict[str, "Tensor"], "Tensor"]]:
        """Yield the network's keyword arguments and the labels, `batch_size` rows at a time."""


def modality_of(name: str) -> Modality:
    """Return the module of the modality `text` or `image`."""
    return cast(Modality, import_module(".".join(PACKAGES[name])))


def sources_of(name: str) -> "InputSources":
    """Return which code decides the results of a modality; imports no torch."""
    return cast("InputSources", import_module(PACKAGES[name][0]).SOURCES)
