"""Compress a checkpoint's network as a whole."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn

from lowrank_bench.device import device_of
from lowrank_bench.network.compress import compress_within
from lowrank_bench.network.problem import CompressedNetwork, NetworkProblem
from lowrank_bench.problem import data_used, used

if TYPE_CHECKING:
    from lowrank_bench.inputs.modality import Encoded, Modality
    from lowrank_bench.methods import NetworkMethod


def network_problem(
    modality: "Modality",
    model: nn.Module,
    processor: Any,
    rows: "Encoded",
    batch_size: int,
    device: str = "cpu",
    **settings: Any,
) -> NetworkProblem:
    """Return a network as methods for whole networks see it, with calibration data.

    Parameters
    ----------
    modality
        Makes batches of the rows: `inputs.modality.modality_of`.
    rows
        Calibration rows, with labels as the network's outputs are numbered.
    batch_size
        Rows of a calibration batch.
    settings
        Further fields of `NetworkProblem`: `target`, `budget`, `seed`, `seconds`, `rest`,
        `row_facts`.
    """
    model.to(device)
    numbers = range(len(rows))

    def _batches() -> Iterator[Any]:
        return modality.batches(rows, processor, numbers, device, batch_size)

    example, _ = next(modality.batches(rows, processor, numbers[:1], device, 1))
    return NetworkProblem(model, example=example, batches=_batches, **settings)


def compress_network(
    problem: NetworkProblem, method: "NetworkMethod", compression: float
) -> tuple[CompressedNetwork, dict[str, Any]]:
    """Return the compressed network, and the facts for its manifest.

    Raises
    ------
    LowRankError
        When the method refuses the network or the budget.
    """
    start = time.perf_counter()
    compressed = compress_within(problem, method, compression)
    return compressed, {
        "method": method.label(),
        "data_used": data_used(used(method.needs, problem.target)),
        "seconds": time.perf_counter() - start,
        "device": device_of(problem.model).type,
        "layers": compressed.layers,
        "info": compressed.info,
    }
