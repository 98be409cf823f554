"""How the stages of one experiment compute; keys hold what decides a result."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowrank_bench.store.digest import canonical

if TYPE_CHECKING:
    from lowrank_bench.config import Config


@dataclass(frozen=True)
class Settings:
    """What a job needs in addition to its work.

    Attributes
    ----------
    store, folder
        The store, and the experiment's results folder.
    max_tokens
        Padded tokens of one batch of predictions.
    device, factorize_device
        Where networks predict and train (None: the best device), and where matrices are decomposed.
    precision
        Of predictions: `fp32` or `bf16`.
    threads
        Number of CPU threads.
    failures
        Why earlier pieces of work failed, by key.
    plugins
        Folders with methods outside the package.
    """

    store: str = "results/store"
    folder: Path = Path("results")
    max_tokens: int = 4096
    device: str | None = None
    factorize_device: str | None = "cpu"
    precision: str = "fp32"
    threads: int = 1
    failures: Mapping[str, str] = field(default_factory=dict)
    plugins: Sequence[str] = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Settings":
        """Return the settings among these values; other values are ignored."""
        known = {item.name for item in fields(cls)}
        chosen = {name: value for name, value in values.items() if name in known}
        if "folder" in chosen:
            chosen["folder"] = Path(chosen["folder"])
        return cls(**chosen)

    def to_json(self) -> str:
        """Return, as canonical JSON, the settings that all jobs of an experiment share."""
        shared = asdict(self)
        del shared["threads"], shared["failures"]
        return canonical(shared | {"folder": self.folder.as_posix()})


def settings_of(config: "Config") -> Settings:
    """Return how an experiment computes."""
    evaluation = config.evaluation
    return Settings(
        store=config.store,
        folder=Path("results", config.name),
        max_tokens=evaluation.max_tokens,
        device=evaluation.device,
        factorize_device=config.factorize.device,
        precision=evaluation.precision,
        plugins=config.plugins,
    )
