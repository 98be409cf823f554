"""What is computed, as plain data: checkpoints, decompositions and cells, each with its key.

A key is the digest of everything that can change the artifact: configuration, data, and the
sources behind it. Titles and metrics are not part of it. Nothing here imports torch.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from lowrank_bench.digest import canonical, digest

DENSE = "dense"


@dataclass(frozen=True)
class Source:
    """Something to fetch or to generate: the files of a network, or the splits of a task.

    Attributes
    ----------
    kind
        `network` or `data`.
    name
        Name of the model or task in the configuration, for messages only.
    spec
        Where it comes from: hub repository and revision, or generator and seed.
    checks
        Expected SHA-256 and row counts; they guard the download but do not name it.
    code
        Digest of the generator's sources; empty for what comes from the hub.
    """

    kind: str
    name: str
    spec: Mapping[str, Any]
    checks: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""

    @cached_property
    def key(self) -> str:
        """Key in the store."""
        return digest([self.kind, self.spec, self.code])


@dataclass(frozen=True)
class Checkpoint:
    """A network trained on one task with one seed.

    Attributes
    ----------
    network, data
        Sources of the network's files and of the task's splits.
    text
        How rows become features and labels: `columns`, `label`, `labels`, `max_length`.
    recipe
        Training settings; for a published checkpoint, its label map instead.
    evaluation
        Names of the splits on which the network is evaluated, or of a part (`rows_of`).
    """

    model: str
    task: str
    seed: int
    network: Source
    data: Source
    text: Mapping[str, Any]
    recipe: Mapping[str, Any]
    evaluation: tuple[str, ...]
    code: str

    @cached_property
    def key(self) -> str:
        """Key in the store."""
        sources = [self.network.key, self.data.key]
        return digest([sources, self.seed, self.text, self.recipe, self.code])

    def fetched(self) -> tuple[Source, ...]:
        """Return what the download stage provides; small synthetic networks are built in place."""
        return (self.network, self.data) if self.network.spec["kind"] == "hub" else (self.data,)

    def title(self) -> str:
        """Return a short name for messages."""
        return f"{self.model} · {self.task} · seed {self.seed}"


def rows_of(split: str, limit: int) -> str:
    """Return the name of the first `limit` rows of a split's fixed shuffle, as `train[:2000]`."""
    return f"{split}[:{limit}]"


def split_and_limit(name: str) -> tuple[str, int | None]:
    """Return the split and the number of rows that `rows_of` named, None for a whole split."""
    split, bracket, rest = name.partition("[:")
    return split, int(rest.removesuffix("]")) if bracket else None


@dataclass(frozen=True)
class Spec:
    """A method with its parameters, applied to a target.

    Attributes
    ----------
    code
        Digest of the method's sources.
    nested
        Whether one decomposition serves every compression.
    needs
        Names of the facts about the rows that the method needs (`problem.FACTS`).
    """

    method: str
    params: Mapping[str, Any]
    target: str
    label: str
    code: str
    nested: bool = True
    needs: tuple[str, ...] = ()

    def key(self, checkpoint: Checkpoint, compression: float) -> str:
        """Key of the decomposition of a checkpoint that serves a compression."""
        parts = [checkpoint.key, self.method, self.params, self.target, self.code]
        return digest(parts if self.nested else [*parts, compression])


@dataclass(frozen=True)
class Cell:
    """One experiment: a checkpoint, a method with parameters, a compression, epochs after it."""

    checkpoint: Checkpoint
    spec: Spec
    compression: float
    finetune_epochs: int
    code: str

    @cached_property
    def spec_key(self) -> str:
        """Key of the decomposition that it rests on."""
        return self.spec.key(self.checkpoint, self.compression)

    @cached_property
    def key(self) -> str:
        """Key in the store."""
        return digest(
            [
                self.spec_key,
                self.compression,
                self.finetune_epochs,
                sorted(self.checkpoint.evaluation),
                self.code,
            ]
        )

    @property
    def config_digest(self) -> str:
        """Digest of the cell's configuration without the sources."""
        point = self.checkpoint
        parts = [point.network.spec, point.data.spec, point.text, point.recipe, point.seed]
        method = [self.spec.method, self.spec.params, self.spec.target]
        return digest([parts, method, self.compression, self.finetune_epochs])

    def title(self) -> str:
        """Return a short name for messages."""
        where = f"{self.checkpoint.model} · {self.checkpoint.task}"
        after = f" · {self.finetune_epochs} epochs after" if self.finetune_epochs else ""
        if self.spec.method == DENSE:
            return f"{where} · dense{after}"
        return f"{where} · {self.spec.label} · {100 * self.compression:g} %{after}"


@dataclass(frozen=True)
class Job:
    """Work that one process does: checkpoints, one method's specs, compressions.

    The cells of a job are the product of its parts; the dense network is the spec `dense`.
    """

    stage: str
    name: str
    sources: tuple[Source, ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()
    specs: tuple[Spec, ...] = ()
    compressions: tuple[float, ...] = ()
    finetune_epochs: tuple[int, ...] = (0,)
    code: str = ""

    def cells(self) -> list[Cell]:
        """Return the cells that the job evaluates."""
        return [
            Cell(checkpoint, spec, compression, epochs, self.code)
            for checkpoint in self.checkpoints
            for spec in self.specs
            for compression in self.compressions
            for epochs in self.finetune_epochs
        ]

    def decompositions(self) -> dict[str, tuple[Checkpoint, Spec, float]]:
        """Return by key what the job decomposes; nested methods once for all compressions."""
        found: dict[str, tuple[Checkpoint, Spec, float]] = {}
        for checkpoint in self.checkpoints:
            for spec in self.specs:
                for compression in self.compressions:
                    key = spec.key(checkpoint, compression)
                    found.setdefault(key, (checkpoint, spec, compression))
        return found

    def to_json(self) -> str:
        """Return the job as canonical JSON; `job_from_json` reads it back."""
        return canonical(asdict(self))


def job_from_json(values: Mapping[str, Any]) -> Job:
    """Return the job whose `to_json`, parsed, is `values`."""
    parts = dict(values)
    parts["sources"] = tuple(Source(**source) for source in values["sources"])
    parts["checkpoints"] = tuple(_checkpoint(point) for point in values["checkpoints"])
    parts["specs"] = tuple(
        Spec(**{**spec, "needs": tuple(spec["needs"])}) for spec in values["specs"]
    )
    parts["compressions"] = tuple(values["compressions"])
    parts["finetune_epochs"] = tuple(values["finetune_epochs"])
    return Job(**parts)


def _checkpoint(values: Mapping[str, Any]) -> Checkpoint:
    parts = dict(values)
    parts["network"] = Source(**values["network"])
    parts["data"] = Source(**values["data"])
    parts["evaluation"] = tuple(values["evaluation"])
    return Checkpoint(**parts)
