"""One decomposition of one checkpoint's embedding, from the store or computed."""

import time
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lowrank_bench.cells import Checkpoint, Spec
from lowrank_bench.checkpoint.make import ensure_checkpoint
from lowrank_bench.linalg.decomposition import Decomposition
from lowrank_bench.methods import make_method
from lowrank_bench.provenance import provenance
from lowrank_bench.store import Store

FILE = "decomposition.safetensors"


def checkpoint_matrix(point: Checkpoint, store: Store) -> Tensor:
    """Return the embedding table of a checkpoint, n×d float64, without loading the network."""
    folder = ensure_checkpoint(point, store)
    name = store.manifest(folder)["embedding"]
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return file.get_tensor(name).to(torch.float64)


def ensure_decomposition(
    point: Checkpoint, spec: Spec, store: Store, matrix: Tensor | None = None
) -> Path:
    """Return the store's folder of a decomposition, computing it when it is absent.

    Raises
    ------
    LowRankError
        When the method refuses the matrix.
    """
    key = spec.key(point)
    found = store.folder("decomposition", key, deep=True)
    if found:
        return found
    matrix = checkpoint_matrix(point, store) if matrix is None else matrix
    start = time.perf_counter()
    decomposition = make_method(spec.method, **spec.params).decompose(matrix)
    about: dict[str, Any] = {
        "checkpoint": point.title(),
        "method": spec.label,
        "shape": list(matrix.shape),
        "seconds": time.perf_counter() - start,
        "info": decomposition.info,
        **provenance(),
    }
    with store.new_folder("decomposition", key, about) as fresh:
        tensors = {k: v.cpu().contiguous() for k, v in decomposition.tensors().items()}
        save_file(tensors, fresh / FILE)
    return store.place("decomposition", key)


def load_decomposition(
    point: Checkpoint, spec: Spec, store: Store, matrix: Tensor
) -> tuple[Decomposition, dict[str, Any]]:
    """Return a decomposition and what its writer noted, computing it when it is absent."""
    folder = ensure_decomposition(point, spec, store, matrix)
    method = make_method(spec.method, **spec.params)
    tensors = load_file(folder / FILE)
    return method.decomposition_class().from_tensors(matrix, tensors), store.manifest(folder)
