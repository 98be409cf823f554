"""Check a user's example and calibration batches before methods rely on them."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.network.problem import Batches, Inputs


def check_example(model: nn.Module, example: Any) -> None:
    """Check that the network runs on the keyword arguments of one forward.

    Raises
    ------
    LowRankError
        When they are not a mapping from names to tensors, hold several examples, or the network
        fails on them.
    """
    _check_inputs("example", example)
    name, size = _first(example)
    if size != 1:
        raise LowRankError(f"example must hold one example; its {name!r} has {size}")
    _check_forward(model, "example", example)


def checked_batches(model: nn.Module, batches: Any, labelled: bool) -> Batches:
    """Return the calibration batches; each is checked when it is used.

    Parameters
    ----------
    labelled
        Whether the method uses labels.

    Raises
    ------
    LowRankError
        When `batches` is not a function. Later, when a batch is not a pair of named inputs and
        labels, the network fails on the first batch, there is not one label for each example, or
        a further call returns no data.
    """
    if not callable(batches):
        raise LowRankError(
            "batches must be a function that returns pairs of keyword arguments and labels, the "
            f"same at each call, not {type(batches).__name__}; as batches=lambda: pairs"
        )
    had_data = False  # in an earlier call

    def _checked() -> Iterator[tuple[Inputs, Tensor | None]]:
        nonlocal had_data
        count = 0
        for item in batches():
            # The caller may yield anything: check the form before the parts are used.
            if not isinstance(item, tuple | list) or len(item) != 2:
                raise LowRankError(
                    "each calibration batch must be a pair (keyword arguments, labels or None), as "
                    "({'x': images}, None)"
                )
            inputs, labels = item
            _check_inputs("a calibration batch", inputs)
            _, size = _first(inputs)
            if labelled and labels is not None:
                _check_labels(labels, size)
            # One forward shows whether names and shapes fit; more would double the cost.
            if size and not count:
                _check_forward(model, "the calibration batches", inputs)
            count += size
            if size:
                yield inputs, labels
        # A generator that is used up looks like an empty data set at the next call.
        if had_data and not count:
            raise LowRankError(
                "batches gave data once and then none; make a new generator at each call"
            )
        had_data = True

    return _checked


def take_modes(model: nn.Module, like: nn.Module) -> None:
    """Give each module the training mode of the module of its name in `like`.

    The parts of a new layer take the mode of the layer that it replaces.
    """
    modes = {name: module.training for name, module in like.named_modules()}
    for name, module in model.named_modules():
        while name not in modes:
            name = name.rpartition(".")[0]
        module.training = modes[name]


def _check_inputs(what: str, inputs: Any) -> None:
    good = isinstance(inputs, Mapping) and inputs
    if not good or not all(isinstance(value, Tensor) for value in inputs.values()):
        raise LowRankError(
            f"{what} must hold the keyword arguments of a forward, each a tensor, as "
            "{'x': torch.zeros(1, 3, 32, 32)}"
        )


def _check_labels(labels: Any, size: int) -> None:
    if not isinstance(labels, Tensor) or labels.ndim < 1 or len(labels) != size:
        count = f"{len(labels)}" if isinstance(labels, Tensor) and labels.ndim else "other things"
        raise LowRankError(f"labels must be a tensor, one for each of {size} inputs, not {count}")


def _first(inputs: Inputs) -> tuple[str, int]:
    """Return the name and the length of the first input."""
    name, value = next(iter(inputs.items()))
    return name, len(value) if value.ndim else 1


def _check_forward(model: nn.Module, what: str, inputs: Inputs) -> None:
    try:
        with torch.no_grad():
            model(**inputs)
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        fault = (f"{error}".splitlines() or [type(error).__name__])[0]
        raise LowRankError(
            f"{type(model).__name__} does not run on {what} ({', '.join(inputs)}): {fault}"
        ) from None
