"""A network whose embedding is swapped for one set of factors after another."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.layers.embedding import find_embedding, swap_embedding
from lowrank_bench.linalg.certificates.certificate import certificate_columns, certify
from lowrank_bench.linalg.certificates.lower_bounds import LowerBounds
from lowrank_bench.linalg.decomposition import Decomposition
from lowrank_bench.linalg.factors import Approximation
from lowrank_bench.problem import FLOAT_BYTES

if TYPE_CHECKING:
    from lowrank_bench.methods import MatrixMethod


class SwappedEmbedding:
    """A network and its dense table, kept to compare factors with.

    Parameters
    ----------
    model
        The network as trained; `swap` changes it in place.

    Attributes
    ----------
    matrix
        The dense table n×d, float64, on the CPU.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.layer, embedding = find_embedding(model)
        self.matrix: Tensor = embedding.weight.detach().cpu().to(torch.float64)
        self._parameters = _count(model)
        self._bounds = LowerBounds(self.matrix)

    def dense_facts(self) -> dict[str, Any]:
        """Return the facts about the network as it was trained."""
        return {
            **self._sizes(self.matrix.numel(), FLOAT_BYTES * self.matrix.numel()),
            **dict.fromkeys(("rel_error_fro", "rel_error_l1", "rel_error_l21"), 0.0),
            "index_bits": 0,
            "factorize_seconds": 0.0,
        }

    def restored(self, method: "MatrixMethod", tensors: Mapping[str, Tensor]) -> Decomposition:
        """Return the decomposition of the table by a method, from its tensors."""
        return method.decomposition_class().from_tensors(self.matrix, dict(tensors))

    def swap(
        self,
        method: "MatrixMethod",
        decomposition: Decomposition,
        compression: float,
        budget: str = "parameters",
    ) -> dict[str, Any]:
        """Put the factors of a compression in the place of the table; return the facts about them.

        Parameters
        ----------
        budget
            The unit of the compression: `parameters` or `bytes`.

        Raises
        ------
        LowRankError
            When the compression leaves no rank, or the network keeps the table elsewhere.
        """
        rows, columns = self.matrix.shape
        factors: Approximation = decomposition.factors(
            method.size_for(rows, columns, compression, budget)
        )
        swap_embedding(self.model, self.layer, factors)
        certificate = certify(self.matrix, factors, bounds=self._bounds, thorough=True)
        return {
            **self._sizes(factors.n_parameters, factors.n_bytes),
            **self._achieved(factors, budget),
            "rank": factors.rank,
            "index_bits": factors.index_bits,
            **certificate_columns(certificate),
        }

    def _achieved(self, factors: Approximation, budget: str) -> dict[str, float]:
        """Return the share that is saved, where it is not one of parameters."""
        if budget == "parameters":
            return {}
        return {"achieved_compression": 1 - factors.n_bytes / (FLOAT_BYTES * self.matrix.numel())}

    def _sizes(self, kept: int, n_bytes: int) -> dict[str, int]:
        dense, now, size = self._parameters, _count(self.model), self.matrix.numel()
        if dense - now != size - kept:
            raise LowRankError(
                f"the network saves {dense - now:,} parameters and its embedding {size - kept:,}; "
                f"it holds the table of {self.layer!r} elsewhere as well"
            )
        return {
            "parameters_dense": size,
            "parameters_kept": kept,
            "network_parameters_dense": dense,
            "network_parameters_kept": now,
            "bytes_dense": FLOAT_BYTES * size,
            "bytes_kept": n_bytes,
            "network_bytes_dense": FLOAT_BYTES * dense,
            "network_bytes_kept": FLOAT_BYTES * (dense - size) + n_bytes,
        }


def _count(model: nn.Module) -> int:
    """Return the number of all parameters, shared ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())
