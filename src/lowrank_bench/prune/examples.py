"""The calibration examples of pruning: the first few, and a check of what the network computes."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from lowrank_bench.errors import LowRankError
from lowrank_bench.prune.outputs import output_tensors


def first_examples(
    batches: Iterable[tuple[Mapping[str, Tensor], Tensor | None]], count: int
) -> Iterator[dict[str, Tensor]]:
    """Yield the inputs of the first `count` examples of some batches.

    Raises
    ------
    LowRankError
        When the batches hold no examples.
    """
    seen = 0
    for inputs, _ in batches:
        size = len(next(iter(inputs.values())))
        if size:
            yield {name: value[: count - seen] for name, value in inputs.items()}
        seen += size
        if seen >= count:
            return
    if not seen:
        raise LowRankError("the calibration batches are empty; give some training inputs")


def examples_in(batches: Iterable[Mapping[str, Tensor]]) -> int:
    """Return the number of examples in some batches."""
    return sum(len(next(iter(batch.values()))) for batch in batches)


def check_outputs(output: Any) -> None:
    """Check the output of a network on calibration data.

    Raises
    ------
    LowRankError
        When it holds NaN or infinite values.
    """
    if not all(value.isfinite().all() for value in output_tensors(output)):
        raise LowRankError(
            "the network's outputs are NaN or infinite on the calibration data; check that the "
            "inputs are finite and preprocessed as in training"
        )
