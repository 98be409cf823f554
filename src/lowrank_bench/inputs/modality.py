"""What the pipeline needs from a kind of input: `text`, `image` or `similarity`.

A modality is a module with the functions of `Modality`. All code above it (checkpoints,
evaluation, training after compression, calibration) is the same for all of them. Tasks of
`similarity` run on networks of texts, as encoders of sentences.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

    from lowrank_bench.inputs.similarity import similarity
    from lowrank_bench.inputs.similarity.sentences import Encoded as EncodedSentences
    from lowrank_bench.inputs.sources import InputSources
    from lowrank_bench.inputs.text import text
    from lowrank_bench.inputs.text.encode import Encoded as EncodedTexts
    from lowrank_bench.inputs.training_loop import Watch
    from lowrank_bench.inputs.vision import image
    from lowrank_bench.inputs.vision.images import Encoded as EncodedImages

# Modality → its package, which declares its sources, and the module with its functions.
PACKAGES = {
    "text": ("lowrank_bench.inputs.text", "text"),
    "image": ("lowrank_bench.inputs.vision", "image"),
    "similarity": ("lowrank_bench.inputs.similarity", "similarity"),
}


class Encoded(Protocol):
    """The rows of a split in the form that the network takes; each modality has its own class."""

    @property
    def labels(self) -> NDArray[Any]:
        """Class ids (int64) or scores (float32), n."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def with_labels(self, labels: NDArray[Any]) -> Self:
        """Return the same rows with other labels."""


Rows = TypeVar("Rows", bound=Encoded)


class ModalityOf(Protocol[Rows]):
    """The functions of a modality whose encoded rows are `Rows`.

    A `processor` is a tokenizer, or how pixels are normalised.
    """

    def initial_network(
        self, spec: Mapping[str, Any], folder: Path | None, inputs: Mapping[str, Any], seed: int
    ) -> tuple["nn.Module", Any]:
        """Return the network before training, and its processor.

        Parameters
        ----------
        spec
            Where the network comes from, as in `config.entries`.
        folder
            The files of a downloaded network; None for a network that is built here.
        inputs
            How rows become features and labels: `columns`, `label`, `labels`, and more.
        seed
            Decides the random weights.
        """

    def published_network(
        self,
        spec: Mapping[str, Any],
        folder: Path,
        inputs: Mapping[str, Any],
        recipe: Mapping[str, Any],
        title: str,
    ) -> tuple["nn.Module", Any, list[int] | None]:
        """Return a network that others trained, its processor, and the order of its outputs.

        The order has the number of the output for each label; None when they agree. `recipe` is
        what the configuration says of the network.
        """

    def check_network(self, model: "nn.Module", title: str) -> dict[str, Any]:
        """Refuse a network that cannot be compressed; return facts for the manifest."""

    def save_network(self, model: "nn.Module", processor: Any, folder: Path) -> None:
        """Write network and processor to a folder."""

    def load_network(self, folder: Path) -> tuple["nn.Module", Any]:
        """Return network and processor, float32, in evaluation mode, on the CPU."""

    def encode(self, rows: "pd.DataFrame", processor: Any, inputs: Mapping[str, Any], /) -> Rows:
        """Return the rows in the form that the network takes, with their labels."""

    def example(self, processor: Any, length: int) -> dict[str, "Tensor"]:
        """Return the arguments of a forward pass for one row: a text of `length`, or an image."""

    def processor_name(self, processor: Any, /) -> list[Any] | None:
        """Return what decides how rows are encoded; None: encode them anew in every job."""

    def write_encoded(self, encoded: Rows, folder: Path) -> None:
        """Write encoded rows to a folder."""

    def read_encoded(self, folder: Path) -> Rows:
        """Return encoded rows, memory-mapped."""

    def predict(
        self,
        model: "nn.Module",
        processor: Any,
        encoded: Rows,
        max_tokens: int,
        device: str = "cpu",
        output_order: Sequence[int] | None = None,
        /,
    ) -> NDArray[np.float32]:
        """Return the logits of every row, n×labels float32, in the order of the labels.

        Of sentences, the cosines of their vectors (`similarity.vectors.predict`).
        """

    def with_dense(
        self, model: "nn.Module", processor: Any, encoded: Rows, max_tokens: int, device: str, /
    ) -> Rows:
        """Return the rows with what the dense network says of them, where that is compared."""

    def train(
        self,
        model: "nn.Module",
        processor: Any,
        encoded: Rows,
        recipe: Mapping[str, Any],
        seed: int,
        device: str = "cpu",
        watch: "Watch | None" = None,
        /,
    ) -> dict[str, Any]:
        """Train a network in place; return what `training_loop.Training.run` returns."""

    def batches(
        self, encoded: Rows, processor: Any, rows: Sequence[int], device: str, batch_size: int
    ) -> Iterator[tuple[dict[str, "Tensor"], "Tensor"]]:
        """Yield the network's keyword arguments and the labels, `batch_size` rows at a time."""


Modality = ModalityOf[Encoded]

if TYPE_CHECKING:  # all modules have the functions of a modality
    _TEXT: ModalityOf[EncodedTexts] = text
    _IMAGE: ModalityOf[EncodedImages] = image
    _SIMILARITY: ModalityOf[EncodedSentences] = similarity


def modality_of(name: str) -> Modality:
    """Return the module of the modality `text`, `image` or `similarity`."""
    return cast(Modality, import_module(".".join(PACKAGES[name])))


def sources_of(name: str) -> "InputSources":
    """Return which code decides the results of a modality; imports no torch."""
    return cast("InputSources", import_module(PACKAGES[name][0]).SOURCES)
