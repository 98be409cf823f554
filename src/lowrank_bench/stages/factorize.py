"""The factorize stage: decompositions of embeddings, and networks compressed as a whole."""

import warnings
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lowrank_bench.artifact import load, save
from lowrank_bench.device import best_device
from lowrank_bench.factorize.decompose import decompose
from lowrank_bench.factorize.network import compress_network, network_problem
from lowrank_bench.latency import seconds_for
from lowrank_bench.layers.embedding import find_embedding
from lowrank_bench.methods import MatrixMethod, NetworkMethod, make_method, network_method
from lowrank_bench.network.problem import NetworkProblem
from lowrank_bench.plan.cells import Cell, Checkpoint, Spec
from lowrank_bench.stages.checkpoint import CheckpointStep, load_checkpoint
from lowrank_bench.stages.row_facts import row_facts
from lowrank_bench.stages.runner import Runner
from lowrank_bench.store.provenance import provenance
from lowrank_bench.store.store import Artifact, Store

KIND = "decomposition"
FILE = "decomposition.safetensors"
NETWORK = "network"  # folder of a compressed network


class Prepared:
    """What methods are applied to, read once for all that compress the same checkpoint."""

    def __init__(self) -> None:
        self._read: tuple[tuple[str, str], Tensor | NetworkProblem] | None = None

    def matrix(self, checkpoint: Checkpoint, runner: Runner) -> Tensor:
        """Return the embedding's table n×d, float64."""
        key = (checkpoint.key, "embedding")
        if self._read is None or self._read[0] != key:
            self._read = key, read_matrix(checkpoint, runner)
        assert isinstance(self._read[1], Tensor)
        return self._read[1]

    def problem(self, checkpoint: Checkpoint, spec: Spec, runner: Runner) -> NetworkProblem:
        """Return the whole network with calibration data."""
        key = (checkpoint.key, f"{spec.target} {spec.needs}")  # with the facts that it needs
        if self._read is None or self._read[0] != key:
            device = best_device(runner.settings.factorize_device, "factorize.device")
            self._read = key, read_problem(checkpoint, spec, runner, device)
        assert isinstance(self._read[1], NetworkProblem)
        return self._read[1]


class DecompositionStep:
    """What a method makes of a checkpoint: a decomposition, or a compressed network.

    Parameters
    ----------
    checkpoint, spec
        What is compressed, and how.
    compression
        Decides the rank where a method is not nested; others serve every compression at once.
    prepared
        What was read for the compressions before.
    key
        In the store, where it is known.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        spec: Spec,
        compression: float,
        prepared: Prepared | None = None,
        key: str | None = None,
    ) -> None:
        self.checkpoint, self.spec, self.compression = checkpoint, spec, compression
        self.prepared = prepared or Prepared()
        self.key = key or spec.key(checkpoint, compression)

    def lookup(self, store: Store) -> Artifact | None:
        """Return the factors or the network."""
        return store.artifact(KIND, self.key)

    def make(self, runner: Runner) -> None:
        """Decompose the matrix, or compress the network.

        Raises
        ------
        LowRankError
            When the method refuses the matrix, the network or the compression.
        """
        method = make_method(self.spec.method, **self.spec.params)
        if self.spec.target == "embedding":
            assert isinstance(method, MatrixMethod)
            self._decompose(runner, method)
        else:
            self._compress(runner, network_method(method, self.spec.target))

    def title(self) -> str:
        """Return a short name for messages."""
        return f"{self.checkpoint.title()} · {self.spec.label}"

    def _decompose(self, runner: Runner, method: MatrixMethod) -> None:
        matrix = self.prepared.matrix(self.checkpoint, runner)
        facts = row_facts(self.checkpoint, runner, self.spec.needs, len(matrix))
        decomposition, manifest = decompose(
            matrix, method, self.compression, facts, self.spec.budget
        )
        tensors = {
            name: tensor.cpu().contiguous() for name, tensor in decomposition.tensors().items()
        }
        with runner.store.new_folder(KIND, self.key, self._manifest(manifest)) as fresh:
            save_file(tensors, fresh / FILE)

    def _compress(self, runner: Runner, method: NetworkMethod) -> None:
        problem = self.prepared.problem(self.checkpoint, self.spec, runner)
        compressed, manifest = compress_network(problem, method, self.compression)
        with (
            runner.store.new_folder(KIND, self.key, self._manifest(manifest)) as fresh,
            warnings.catch_warnings(),
        ):
            # It is read into the dense network, so it need not say how to build one.
            warnings.filterwarnings("ignore", r"load\(folder\) will not give this network")
            save(compressed.model, fresh / NETWORK)

    def _manifest(self, facts: dict[str, Any]) -> dict[str, Any]:
        return {"checkpoint": self.checkpoint.title(), **facts, **provenance()}


def read_matrix(checkpoint: Checkpoint, runner: Runner) -> Tensor:
    """Return a checkpoint's embedding table n×d, float64, without loading the network."""
    device = best_device(runner.settings.factorize_device, "factorize.device")
    stored = runner.ensure(CheckpointStep(checkpoint))
    with safe_open(stored.folder / "model.safetensors", framework="pt") as file:
        table: Tensor = file.get_tensor(stored.manifest["embedding"])
    return table.to(device, torch.float64)


def read_problem(
    checkpoint: Checkpoint, spec: Spec, runner: Runner, device: str = "cpu"
) -> NetworkProblem:
    """Return a checkpoint's network as methods for whole networks see it."""
    loaded = load_checkpoint(checkpoint, runner)
    calibration, budget = spec.settings["calibration"], spec.budget
    wanted = {*spec.needs} & {"frequency", "counts"} if spec.target == "linear" else set()
    rows = len(find_embedding(loaded.model)[1].weight) if wanted else 0
    return network_problem(
        loaded.modality,
        loaded.model,
        loaded.processor,
        loaded.training_rows(runner, calibration["rows"]),
        calibration["batch_size"],
        device,
        target=spec.target,
        budget=budget,
        seconds=seconds_for(budget),
        seed=checkpoint.seed,
        rest=spec.settings.get("rest", "as_is"),
        row_facts=row_facts(checkpoint, runner, sorted(wanted), rows),
    )


def read_tensors(cell: Cell, runner: Runner) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of the decomposition that serves a cell, and its manifest."""
    stored = runner.ensure(_step(cell))
    return load_file(stored.folder / FILE), stored.manifest


def read_compressed(
    cell: Cell, dense: nn.Module, runner: Runner
) -> tuple[nn.Module, dict[str, Any]]:
    """Return the compressed network of a cell, and its manifest."""
    stored = runner.ensure(_step(cell))
    return load(stored.folder / NETWORK, model=dense), stored.manifest


def _step(cell: Cell) -> DecompositionStep:
    return DecompositionStep(cell.checkpoint, cell.spec, cell.compression, key=cell.spec_key)
