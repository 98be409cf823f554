"""One decomposition of one checkpoint's embedding, from the store or computed."""

import time
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lowrank_bench.checkpoint.make import ensure_checkpoint
from lowrank_bench.factorize.facts import row_facts
from lowrank_bench.linalg.decomposition import Decomposition
from lowrank_bench.methods import make_method
from lowrank_bench.plan.cells import Checkpoint, Spec
from lowrank_bench.problem import Problem, data_used
from lowrank_bench.store.provenance import provenance
from lowrank_bench.store.store import Store

FILE = "decomposition.safetensors"


def checkpoint_matrix(point: Checkpoint, spec: Spec, store: Store, device: str = "cpu") -> Tensor:
    """Return what a spec targets, the embedding table n×d, float64, without the network."""
    folder = ensure_checkpoint(point, store)
    name = store.manifest(folder)["embedding"]
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return file.get_tensor(name).to(device, torch.float64)


def ensure_decomposition(
    point: Checkpoint,
    spec: Spec,
    compression: float,
    store: Store,
    matrix: Tensor | None = None,
) -> Path:
    """Return the store's folder of a decomposition, computing it when it is absent.

    One decomposition serves every compression, unless the method is not nested.

    Raises
    ------
    LowRankError
        When the method refuses the matrix or the compression.
    """
    key = spec.key(point, compression)
    found = store.folder("decomposition", key, deep=True)
    if found:
        return found
    matrix = checkpoint_matrix(point, spec, store) if matrix is None else matrix
    method = make_method(spec.method, **spec.params)
    rank = None if method.nested else method.rank_for(*matrix.shape, compression)
    problem = Problem(matrix, rank, **row_facts(point, store, spec.needs, len(matrix)))
    start = time.perf_counter()
    decomposition = method.decompose(problem)
    tensors = {k: v.cpu().contiguous() for k, v in decomposition.tensors().items()}
    about: dict[str, Any] = {
        "checkpoint": point.title(),
        "method": spec.label,
        "shape": list(matrix.shape),
        "data_used": data_used(spec.needs),
        "seconds": time.perf_counter() - start,
        "device": matrix.device.type,
        "info": decomposition.info,
        **provenance(),
    }
    with store.new_folder("decomposition", key, about) as fresh:
        save_file(tensors, fresh / FILE)
    return store.place("decomposition", key)


def load_decomposition(
    point: Checkpoint, spec: Spec, compression: float, store: Store, matrix: Tensor
) -> tuple[Decomposition, dict[str, Any]]:
    """Return a decomposition and what its writer noted, computing it when it is absent."""
    folder = ensure_decomposition(point, spec, compression, store, matrix)
    method = make_method(spec.method, **spec.params)
    tensors = load_file(folder / FILE)
    return method.decomposition_class().from_tensors(matrix, tensors), store.manifest(folder)
