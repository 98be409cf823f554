"""Compare a compressed network with the dense one: seconds, memory and bytes on disk."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowrank_bench.device import device_of, evaluating, fixed_threads
from lowrank_bench.errors import LowRankError
from lowrank_bench.evaluate.memory import activation_peak, file_bytes, stored_bytes
from lowrank_bench.latency.clock import Clock, taken_in_turn
from lowrank_bench.network.forward import repeated

LEAST_WARM_UP = 3


@dataclass(frozen=True)
class Running:
    """The costs of one network.

    Attributes
    ----------
    best, median, p95
        Seconds of one forward of the batch.
    stored_bytes, activation_bytes, file_bytes
        Bytes of parameters and buffers; the peak in addition to them (`memory.activation_peak`);
        the size of the folder that `save` writes.
    """

    best: float
    median: float
    p95: float
    stored_bytes: int
    activation_bytes: int
    file_bytes: int

    @property
    def peak_bytes(self) -> int:
        """Return the total bytes that a forward needs."""
        return self.stored_bytes + self.activation_bytes


@dataclass(frozen=True)
class Comparison:
    """Two networks on the same inputs.

    Attributes
    ----------
    dense, compressed
        The costs of each.
    device, clock, threads
        The device, what was counted as seconds (`latency.clock.Clock`), and threads on the CPU.
    batch, repeats, warm_up
        Rows of the batch, timed forwards of each network, and untimed ones before them.
    load
        The machine's load average over the last minute, after the run; None if not known.
    """

    dense: Running
    compressed: Running
    device: str
    clock: str
    threads: int
    batch: int
    repeats: int
    warm_up: int
    load: float | None

    @property
    def ratio(self) -> float:
        """Return best dense seconds over best compressed ones; above 1 is faster."""
        return self.dense.best / self.compressed.best

    @property
    def median_ratio(self) -> float:
        """Return median dense seconds over median compressed ones."""
        return self.dense.median / self.compressed.median

    def to_dict(self) -> dict[str, Any]:
        """Return all fields and both ratios, as JSON values."""
        return {**asdict(self), "ratio": self.ratio, "median_ratio": self.median_ratio}


def measure(
    dense: nn.Module,
    compressed: nn.Module,
    example: Mapping[str, Tensor],
    batch: int = 16,
    repeats: int = 30,
    warm_up: int = 5,
    threads: int = 1,
) -> Comparison:
    """Return the costs of two networks on the same batch, measured in turn.

    Parameters
    ----------
    dense, compressed
        On one device. Both run in evaluation mode; on return, their training flags are as before.
    example
        Keyword arguments of a forward; one example is repeated to a batch.
    batch
        Rows of the batch.
    repeats, warm_up
        Timed forwards of each network, and untimed forwards before them, at least 3.
    threads
        Threads of the CPU. Best and median CPU seconds of one thread are robust against other load;
        wall seconds of several threads need an idle machine.

    Raises
    ------
    LowRankError
        When there are no repeats or threads, or too few warm-up forwards.
    """
    if repeats < 1 or warm_up < LEAST_WARM_UP or threads < 1:
        raise LowRankError(
            f"measuring takes repeats >= 1, warm_up >= {LEAST_WARM_UP} and threads >= 1, not "
            f"{repeats}, {warm_up} and {threads}"
        )
    models, inputs = (dense, compressed), repeated(example, batch)
    device = device_of(dense)
    clock = Clock(device, threads)
    calls = [lambda model=model: model(**inputs) for model in models]
    with fixed_threads(threads), torch.inference_mode(), evaluating(*models):
        seconds = taken_in_turn(calls, clock, repeats, warm_up)
        costs = [
            _running(model, inputs, times) for model, times in zip(models, seconds, strict=True)
        ]
    rows = max((len(value) for value in inputs.values() if value.ndim), default=1)
    return Comparison(
        dense=costs[0],
        compressed=costs[1],
        device=str(device),
        clock=clock.name,
        threads=threads,
        batch=rows,
        repeats=repeats,
        warm_up=warm_up,
        load=_load(),
    )


def _running(model: nn.Module, inputs: Mapping[str, Tensor], seconds: list[float]) -> Running:
    return Running(
        best=min(seconds),
        median=median(seconds),
        p95=float(np.quantile(seconds, 0.95)),
        stored_bytes=stored_bytes(model),
        activation_bytes=activation_peak(model, inputs),
        file_bytes=file_bytes(model),
    )


def _load() -> float | None:
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None
