"""A checkpoint's network compressed as a cell says: its embedding, or the whole of it."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_bench.device import device_of
from lowrank_bench.factorize.decompose import load_decomposition
from lowrank_bench.factorize.network import load_compressed, network_problem
from lowrank_bench.layers.embedding import find_embedding, swap_embedding
from lowrank_bench.linalg.certificates.certificate import certificate_columns, certify
from lowrank_bench.linalg.certificates.lower_bounds import LowerBounds
from lowrank_bench.linalg.factors import Approximation
from lowrank_bench.methods import make_method
from lowrank_bench.network.compress import counted
from lowrank_bench.plan.cells import DENSE, Cell, Checkpoint
from lowrank_bench.store.store import Store


class Compressor(ABC):
    """Gives the network of one checkpoint for cell after cell.

    Parameters
    ----------
    model
        The checkpoint's network; it may be changed in place.
    """

    def __init__(self, point: Checkpoint, store: Store, model: nn.Module) -> None:
        self.point, self.store, self.model = point, store, model

    def network(self, cell: Cell) -> tuple[nn.Module, dict[str, Any]]:
        """Return the network that a cell asks for, and the facts for its record.

        Raises
        ------
        LowRankError
            When the method refuses the network or the budget.
        """
        return self._dense(cell) if cell.spec.method == DENSE else self._compressed(cell)

    @abstractmethod
    def _dense(self, cell: Cell) -> tuple[nn.Module, dict[str, Any]]: ...

    @abstractmethod
    def _compressed(self, cell: Cell) -> tuple[nn.Module, dict[str, Any]]: ...


class EmbeddingCompressor(Compressor):
    """Swaps the factors of the embedding in place."""

    def __init__(self, point: Checkpoint, store: Store, model: nn.Module) -> None:
        super().__init__(point, store, model)
        self.layer, embedding = find_embedding(model)
        self.matrix: Tensor = embedding.weight.detach().cpu().to(torch.float64)
        self.others = sum(p.numel() for p in model.parameters()) - self.matrix.numel()
        self._loaded: tuple[str, Any, dict[str, Any]] | None = None
        self._bounds = LowerBounds(self.matrix)

    def _dense(self, cell: Cell) -> tuple[nn.Module, dict[str, Any]]:
        return self.model, {
            **self._sizes(self.matrix.numel()),
            **dict.fromkeys(("rel_error_fro", "rel_error_l1", "rel_error_l21"), 0.0),
            "index_bits": 0,
            "factorize_seconds": 0.0,
        }

    def _compressed(self, cell: Cell) -> tuple[nn.Module, dict[str, Any]]:
        rank = make_method(cell.spec.method, **cell.spec.params).rank_for(
            *self.matrix.shape, cell.compression
        )
        decomposition, about = self._decomposition(cell)
        factors: Approximation = decomposition.factors(rank)
        swap_embedding(self.model, self.layer, factors)
        found = certify(self.matrix, factors, bounds=self._bounds, thorough=True)
        return self.model, {
            **self._sizes(factors.n_parameters),
            "rank": rank,
            "index_bits": factors.index_bits,
            **certificate_columns(found),
            "factorize_seconds": about["seconds"],
        }

    def _sizes(self, kept: int) -> dict[str, int]:
        size = self.matrix.numel()
        return {
            "parameters_dense": size,
            "parameters_kept": kept,
            "network_parameters_dense": self.others + size,
            "network_parameters_kept": self.others + kept,
        }

    def _decomposition(self, cell: Cell) -> tuple[Any, dict[str, Any]]:
        key = cell.spec_key
        if self._loaded is None or self._loaded[0] != key:
            where = (self.store, self.matrix)
            loaded = load_decomposition(self.point, cell.spec, cell.compression, *where)
            self._loaded = (key, *loaded)
        return self._loaded[1], self._loaded[2]


class NetworkCompressor(Compressor):
    """Loads the compressed network that the factorize stage stored."""

    def _dense(self, cell: Cell) -> tuple[nn.Module, dict[str, Any]]:
        problem = network_problem(self.point, cell.spec, self.store)
        return self.model, {**counted(problem, problem.model), "factorize_seconds": 0.0}

    def _compressed(self, cell: Cell) -> tuple[nn.Module, dict[str, Any]]:
        where = (self.point, cell.spec, cell.compression, self.store)
        model, about = load_compressed(*where, dense=self.model)
        facts = {**about["info"], "layers": about["layers"]}
        return model.to(device_of(self.model)), {**facts, "factorize_seconds": about["seconds"]}


def compressor_for(cell: Cell, store: Store, model: nn.Module) -> Compressor:
    """Return what compresses the cell's target."""
    kind = EmbeddingCompressor if cell.spec.target == "embedding" else NetworkCompressor
    return kind(cell.checkpoint, store, model)
