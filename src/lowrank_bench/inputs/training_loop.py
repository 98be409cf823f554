"""The loop of every training: it may stop early, and a killed job goes on from a file."""

import copy
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.store.files import write_atomic

EVERY = 300.0  # seconds between two notes of where a training is
OnStep = Callable[[int, int, float], None]


class Stateful(Protocol):
    """What has a state: a network, an optimizer, a schedule, a source of random numbers."""

    def state_dict(self) -> Any:
        """Return the state."""

    def load_state_dict(self, state: Any) -> Any:
        """Take over a state."""


class NumpyRandom:
    """The state of a NumPy generator."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._bits = generator.bit_generator

    def state_dict(self) -> Any:
        """Return the state."""
        return self._bits.state

    def load_state_dict(self, state: Any) -> None:
        """Take over a state."""
        self._bits.state = state


class TorchRandom:
    """The states of torch's own generators (dropout's), and of one more."""

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self._own = generator

    def state_dict(self) -> Any:
        """Return the states."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        own = None if self._own is None else self._own.get_state()
        return {"cpu": torch.get_rng_state(), "cuda": cuda, "own": own}

    def load_state_dict(self, state: Any) -> None:
        """Take over the states."""
        torch.set_rng_state(state["cpu"])
        if state["cuda"]:
            torch.cuda.set_rng_state_all(state["cuda"])
        if self._own is not None:
            self._own.set_state(state["own"])


@dataclass(frozen=True)
class Watch:
    """What a training heeds beside its own loss.

    Attributes
    ----------
    on_step
        Hears `(step, steps, loss)` of every step.
    held_out
        Gives the loss over rows that are not trained on; asked after every epoch.
    patience
        Stop after so many epochs without a lower held-out loss, and keep the best epoch's network.
    file
        Where the state is noted every `every` seconds; a training of that name that was killed goes
        on from it, with the numbers that it would have had.
    """

    on_step: OnStep | None = None
    held_out: Callable[[nn.Module], float] | None = None
    patience: int | None = None
    file: Path | None = None
    every: float = EVERY


class Training:
    """Steps over batches, epoch after epoch.

    Parameters
    ----------
    parts
        Everything whose state decides the rest, by name; `model` among it.
    batches
        Draws the batches of an epoch: row numbers, int64.
    step
        Trains on one batch and returns its loss.
    """

    def __init__(
        self,
        parts: Mapping[str, Stateful],
        batches: Callable[[], Sequence[Tensor]],
        step: Callable[[Tensor], float],
        watch: Watch | None = None,
    ) -> None:
        self.parts, self.batches, self.step = parts, batches, step
        self.watch = watch or Watch()
        self.model: Any = parts["model"]
        self.done: dict[str, Any] = {"losses": [], "held_out": [], "steps": 0, "total": 0.0}
        self.left: list[Tensor] | None = None  # batches of the current epoch
        self.best: Any = None
        self._noted = time.monotonic()

    def run(self, epochs: int, steps_per_epoch: int) -> dict[str, Any]:
        """Train and return the mean loss of each epoch, and what was seen of held-out rows.

        Raises
        ------
        LowRankError
            When the loss stops being finite.
        """
        self._resume()
        while len(self.done["losses"]) < epochs and not self._stalled():
            if self.left is None:
                self.left, self.done["total"] = list(self.batches()), 0.0
            while self.left:
                self._one_step(epochs * steps_per_epoch)
            self.done["losses"].append(self.done["total"] / steps_per_epoch)
            self.left = None
            self._look()
            self._note()
        if self.best is not None:
            self.model.load_state_dict(self.best)
        if self.watch.file:
            self.watch.file.unlink(missing_ok=True)
        return self._found()

    def _one_step(self, steps: int) -> None:
        value, number = self.step(self.left[0]), self.done["steps"] + 1
        self.left.pop(0)
        if not math.isfinite(value):
            raise LowRankError(
                f"training diverged at step {number} of {steps} (loss {value}); lower "
                "recipe.learning_rate or set recipe.precision=fp32"
            )
        self.done["total"], self.done["steps"] = self.done["total"] + value, number
        if self.watch.on_step:
            self.watch.on_step(number, steps, value)
        self._note()

    def _look(self) -> None:
        """Note the held-out loss, and the network if it is the best so far."""
        if self.watch.held_out is None:
            return
        self.model.eval()
        seen = self.done["held_out"]
        seen.append(self.watch.held_out(self.model))
        self.model.train()
        if not math.isfinite(seen[-1]):
            raise LowRankError(
                f"the loss on held-out rows is {seen[-1]} after epoch {len(seen)}; lower "
                "recipe.learning_rate or set recipe.precision=fp32"
            )
        if self.watch.patience and seen[-1] == min(seen) and seen.count(seen[-1]) == 1:
            self.best = copy.deepcopy(self.model.state_dict())

    def _stalled(self) -> bool:
        seen, patience = self.done["held_out"], self.watch.patience
        return bool(patience and seen) and len(seen) - 1 - seen.index(min(seen)) >= patience

    def _found(self) -> dict[str, Any]:
        found: dict[str, Any] = {"losses": self.done["losses"]}
        if seen := self.done["held_out"]:
            found |= {"held_out_losses": seen}
            if self.watch.patience:
                found["kept_epoch"] = 1 + seen.index(min(seen))
        return found

    def _note(self) -> None:
        if self.watch.file is None or time.monotonic() - self._noted < self.watch.every:
            return
        state = {name: part.state_dict() for name, part in self.parts.items()}
        content = BytesIO()
        torch.save([state, self.done, self.left, self.best], content)
        write_atomic(self.watch.file, content.getvalue())
        self._noted = time.monotonic()

    def _resume(self) -> None:
        file = self.watch.file
        if file is None or not file.is_file():
            return
        try:
            state, *rest = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file makes torch raise nearly anything
            reason = str(error).partition("\n")[0] or type(error).__name__
            _say(f"warning: {file}: damaged or cut short ({reason}); the training starts anew")
            file.unlink(missing_ok=True)
            return
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.done, self.left, self.best = rest
        _say(f"[training] goes on after step {self.done['steps']}, from {file}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
