"""The training loop for texts and images: it can stop early, and resumes after a killed job."""

import copy
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.state import Stateful
from lowrank_bench.store.files import read_signed, write_signed

SAVE_INTERVAL = 300.0  # seconds
OnStep = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Watch:
    """How a training run reports its progress, when it stops early, and where it saves its state.

    Attributes
    ----------
    on_step
        Called as `on_step(step, steps, loss)` after every step.
    held_out
        Returns the network's loss on held-out rows; called after every epoch.
    patience
        Stop after this many epochs without a lower held-out loss, and keep the network of the
        best epoch.
    file
        The state is saved here every `every` seconds. If the file exists, training resumes from
        it, with the same results as an uninterrupted run.
    """

    on_step: OnStep | None = None
    held_out: Callable[[nn.Module], float] | None = None
    patience: int | None = None
    file: Path | None = None
    every: float = SAVE_INTERVAL


@dataclass
class Progress:
    """How far a training run has come.

    Attributes
    ----------
    losses, held_out
        The mean training loss and the held-out loss of every finished epoch.
    steps
        Steps since the start.
    total
        Sum of the losses in the current epoch.
    """

    losses: list[float] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)
    steps: int = 0
    total: float = 0.0


class Training:
    """Steps over batches, epoch after epoch.

    Parameters
    ----------
    parts
        Everything whose state decides the remaining steps, by name; one of them is `model`.
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
        model = parts["model"]
        if not isinstance(model, nn.Module):
            raise TypeError(f"parts['model'] is a {type(model).__name__}, not a network")
        self.parts, self.batches, self.step, self.model = parts, batches, step, model
        self.watch = watch or Watch()
        self.progress = Progress()
        self._remaining: list[Tensor] | None = None  # batches of the current epoch
        self._best: Any = None  # state of the best epoch's network
        self._saved_at = time.monotonic()

    def run(self, epochs: int, steps_per_epoch: int) -> dict[str, Any]:
        """Train the network in place.

        Returns
        -------
        dict
            `losses`: the mean loss of each epoch; with held-out rows also `held_out_losses`, and
            with `patience` the `kept_epoch`, counted from 1.

        Raises
        ------
        LowRankError
            When the loss stops being finite.
        """
        self._resume()
        progress = self.progress
        while len(progress.losses) < epochs and not self._is_stalled():
            # A resumed run first finishes the epoch that was interrupted.
            if self._remaining is None:
                self._remaining, progress.total = list(self.batches()), 0.0
            while self._remaining:
                self._train_step(self._remaining, epochs * steps_per_epoch)
            progress.losses.append(progress.total / steps_per_epoch)
            self._remaining = None
            self._validate()
            self._save()
        if self._best is not None:
            self.model.load_state_dict(self._best)
        if self.watch.file:
            self.watch.file.unlink(missing_ok=True)
        return self._summary()

    def _train_step(self, remaining: list[Tensor], steps: int) -> None:
        """Train on the first of the remaining batches, and drop it once it is done."""
        loss, number = self.step(remaining[0]), self.progress.steps + 1
        remaining.pop(0)
        if not math.isfinite(loss):
            raise LowRankError(
                f"training diverged at step {number} of {steps} (loss {loss}); lower "
                "recipe.learning_rate or set recipe.precision=fp32"
            )
        self.progress.total += loss
        self.progress.steps = number
        if self.watch.on_step:
            self.watch.on_step(number, steps, loss)
        self._save()

    def _validate(self) -> None:
        """Record the held-out loss, and copy the network if it is the best so far."""
        if self.watch.held_out is None:
            return
        self.model.eval()
        losses = self.progress.held_out
        losses.append(self.watch.held_out(self.model))
        self.model.train()
        if not math.isfinite(losses[-1]):
            raise LowRankError(
                f"the loss on held-out rows is {losses[-1]} after epoch {len(losses)}; lower "
                "recipe.learning_rate or set recipe.precision=fp32"
            )
        # Of several epochs with the same lowest loss, the first is kept.
        if self.watch.patience and losses[-1] == min(losses) and losses.count(losses[-1]) == 1:
            self._best = copy.deepcopy(self.model.state_dict())

    def _is_stalled(self) -> bool:
        losses, patience = self.progress.held_out, self.watch.patience
        if not patience or not losses:
            return False
        return len(losses) - 1 - losses.index(min(losses)) >= patience

    def _summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = {"losses": self.progress.losses}
        if losses := self.progress.held_out:
            summary["held_out_losses"] = losses
            if self.watch.patience:
                summary["kept_epoch"] = 1 + losses.index(min(losses))
        return summary

    def _save(self) -> None:
        """Save the state if the last save is long enough ago."""
        if self.watch.file is None or time.monotonic() - self._saved_at < self.watch.every:
            return
        states = {name: part.state_dict() for name, part in self.parts.items()}
        content = BytesIO()
        torch.save([states, asdict(self.progress), self._remaining, self._best], content)
        write_signed(self.watch.file, content.getvalue())
        self._saved_at = time.monotonic()

    def _resume(self) -> None:
        """Continue from the file of an interrupted run, if there is one."""
        file = self.watch.file
        if file is None or not file.is_file():
            return
        try:
            content = BytesIO(read_signed(file))
            saved = torch.load(content, map_location="cpu", weights_only=True)
            states, progress, self._remaining, self._best = saved
        except FileNotFoundError:  # another process has finished the same training meanwhile
            return
        except (OSError, MemoryError):  # of the machine, not of the file, which may serve again
            raise
        except Exception as error:  # torch raises almost anything for a damaged file
            reason = str(error).partition("\n")[0] or type(error).__name__
            _log(f"warning: {file}: damaged or cut short ({reason}); training starts over")
            file.unlink(missing_ok=True)
            return
        for name, part in self.parts.items():
            part.load_state_dict(states[name])
        self.progress = Progress(**progress)
        _log(f"[training] resumes after step {self.progress.steps}, from {file}")


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
