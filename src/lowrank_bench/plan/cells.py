"""What is computed, as plain data: checkpoints, decompositions and cells, each with its key.

A key is the digest of everything that can change the artifact: configuration, data, and the
sources behind it. Titles and metrics are not part of it. Nothing here imports torch.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from lowrank_bench.store.digest import canonical, digest

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

    @property
    def is_fetched(self) -> bool:
        """Whether it comes from a hub; networks that do not are built in place."""
        return bool(self.spec["kind"] == "hub")


@dataclass(frozen=True)
class Checkpoint:
    """A network trained on one task with one seed.

    Attributes
    ----------
    network, data
        Sources of the network's files and of the task's splits.
    inputs
        How rows become features and labels: `columns`, `label`, `labels`, and what the modality
        needs in addition (`max_length` of texts).
    recipe
        Training settings; for a published checkpoint, its label map instead. Without `epochs` the
        network is taken as it is.
    evaluation
        Names of the splits on which the network is evaluated, or of a part (`rows_of`).
    modality
        `text`, `image` or `similarity`: what its inputs are (`inputs.modality`).
    code, encoding
        Digests of the code that makes it, and of the code that encodes its rows.
    """

    model: str
    task: str
    seed: int
    network: Source
    data: Source
    inputs: Mapping[str, Any]
    recipe: Mapping[str, Any]
    evaluation: tuple[str, ...]
    code: str
    modality: str = "text"
    encoding: str = ""

    @cached_property
    def key(self) -> str:
        """Key in the store."""
        sources = [self.network.key, self.data.key]
        return digest([sources, self.seed, self.inputs, self.recipe, self.code])

    @property
    def training_recipe(self) -> Mapping[str, Any]:
        """Settings of training after compression: those of the checkpoint's own training."""
        recipe: Mapping[str, Any] = self.recipe.get("after", self.recipe)
        return recipe

    def fetched(self) -> tuple[Source, ...]:
        """Return what the download stage provides; small synthetic networks are built in place."""
        return (self.network, self.data) if self.network.is_fetched else (self.data,)

    def title(self) -> str:
        """Return a short name for messages."""
        return f"{self.model} · {self.task} · seed {self.seed}"


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
        Names of the facts that the method needs in addition to the weights (`problem.FACTS`).
    settings
        Settings of the experiment that are part of the key: the budget, unless it is that of
        embeddings in parameters, and the calibration data of whole networks.
    budget
        Unit of the compression.
    """

    method: str
    params: Mapping[str, Any]
    target: str
    label: str
    code: str
    nested: bool = True
    needs: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    budget: str = "parameters"

    def key(self, checkpoint: Checkpoint, compression: float) -> str:
        """Key of the decomposition of a checkpoint that serves a compression."""
        parts = [checkpoint.key, self.method, self.params, self.target, self.code]
        parts += [self.settings] if self.settings else []
        return digest(parts if self.nested else [*parts, compression])


@dataclass(frozen=True)
class Cell:
    """One experiment: a checkpoint, a method with parameters, a compression, and epochs after it.

    Attributes
    ----------
    path
        When compression and training are iterated, the compressions before this one, each
        followed by the same epochs; None when they are not.
    """

    checkpoint: Checkpoint
    spec: Spec
    compression: float
    finetune_epochs: int
    code: str
    path: tuple[float, ...] | None = None

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
                *([self.path] if self.path is not None else []),
            ]
        )

    @property
    def config_digest(self) -> str:
        """Digest of the cell's configuration without the sources."""
        checkpoint = self.checkpoint
        parts: list[Any] = [checkpoint.network.spec, checkpoint.data.spec]
        parts += [checkpoint.inputs, checkpoint.recipe, checkpoint.seed]
        spec = self.spec
        method = [
            spec.method,
            spec.params,
            spec.target,
            *([spec.settings] if spec.settings else []),
        ]
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
    protocol: str = "one_shot"

    def cells(self) -> list[Cell]:
        """Return the cells that the job evaluates."""
        rates = self.compressions
        if self.protocol == "iterative":  # in the order in which one rests on the other
            rates = tuple(sorted(rates))
        return [
            Cell(checkpoint, spec, rate, epochs, self.code, self._path(rate))
            for checkpoint in self.checkpoints
            for spec in self.specs
            for epochs in self.finetune_epochs
            for rate in rates
        ]

    def _path(self, compression: float) -> tuple[float, ...] | None:
        if self.protocol != "iterative":
            return None
        return tuple(sorted(rate for rate in self.compressions if rate < compression))

    def decompositions(self) -> dict[str, tuple[Checkpoint, Spec, float]]:
        """Return what the job decomposes, by key: once for all compressions if it is nested."""
        served: dict[str, tuple[Checkpoint, Spec, float]] = {}
        for checkpoint in self.checkpoints:
            for spec in self.specs:
                for compression in self.compressions:
                    key = spec.key(checkpoint, compression)
                    served.setdefault(key, (checkpoint, spec, compression))
        return served

    def to_json(self) -> str:
        """Return the job as canonical JSON; `job_from_json` reads it back."""
        return canonical(asdict(self))


def job_from_json(values: Mapping[str, Any]) -> Job:
    """Return the job whose `to_json`, parsed, is `values`."""
    parts = dict(values)
    parts["sources"] = tuple(Source(**source) for source in values["sources"])
    parts["checkpoints"] = tuple(_checkpoint(entry) for entry in values["checkpoints"])
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
