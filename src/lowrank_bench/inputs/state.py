"""What a training run saves and restores, so that a resumed run gives the same numbers."""

from typing import Any, Protocol

import numpy as np
import torch


class Stateful(Protocol):
    """Anything with a state: a network, an optimizer, a schedule, a random generator."""

    def state_dict(self) -> Any:
        """Return the state."""

    def load_state_dict(self, state: Any, /) -> Any:
        """Restore a state."""


class NumpyRandom:
    """The state of a NumPy generator."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._bits = generator.bit_generator

    def state_dict(self) -> Any:
        """Return the state."""
        return self._bits.state

    def load_state_dict(self, state: Any, /) -> None:
        """Restore a state."""
        self._bits.state = state


class TorchRandom:
    """The states of torch's global generators (dropout uses them) and of one more generator."""

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self._generator = generator

    def state_dict(self) -> dict[str, Any]:
        """Return the states."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        generator = None if self._generator is None else self._generator.get_state()
        return {"cpu": torch.get_rng_state(), "cuda": cuda, "generator": generator}

    def load_state_dict(self, state: Any, /) -> None:
        """Restore the states."""
        torch.set_rng_state(state["cpu"])
        if state["cuda"]:
            torch.cuda.set_rng_state_all(state["cuda"])
        if self._generator is not None:
            self._generator.set_state(state["generator"])
