"""The costs of a compressed network compared with the dense one, as columns of a table."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lowrank_bench.evaluate.compare import measure

COLUMNS = {
    "model": "network",
    "label": "method with its parameters",
    "target": "layers that were replaced",
    "compression": "share that was to be saved",
    "batch": "rows of the batch",
    "length": "tokens of a row; 0 for images",
    "ratio": "best dense seconds over best compressed ones; above 1 is faster",
    "median_ratio": "the same of the medians",
    "dense_seconds": "best seconds of a dense forward",
    "compressed_seconds": "best seconds of a compressed forward",
    "memory_ratio": "dense peak memory over compressed",
    "file_ratio": "dense bytes on disk over compressed",
    "device": "cpu, cuda or mps",
    "clock": "what was counted as seconds",
    "threads": "threads on the CPU",
    "load": "the machine's load average after the measurement",
    "reason": "why nothing was measured; empty otherwise",
}


def measured_costs(
    dense: nn.Module,
    compressed: nn.Module,
    example: Mapping[str, Tensor],
    batch: int,
    repeats: int,
    warm_up: int,
    threads: int,
) -> dict[str, Any]:
    """Return the columns of `COLUMNS` that are measured.

    Parameters
    ----------
    dense, compressed, example, batch, repeats, warm_up, threads
        As in `compare.measure`.
    """
    costs = measure(dense, compressed, example, batch, repeats, warm_up, threads)
    return {
        "ratio": costs.ratio,
        "median_ratio": costs.median_ratio,
        "dense_seconds": costs.dense.best,
        "compressed_seconds": costs.compressed.best,
        "memory_ratio": costs.dense.peak_bytes / costs.compressed.peak_bytes,
        "file_ratio": costs.dense.file_bytes / costs.compressed.file_bytes,
        "device": costs.device,
        "clock": costs.clock,
        "threads": costs.threads,
        "load": costs.load,
    }
