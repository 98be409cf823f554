"""All keys of a configuration, with their types and meanings."""

from math import prod
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from lowrank_bench.config.claims import Claim, Reference
from lowrank_bench.config.entries import Model, Recipe, Strict, Target, Task
from lowrank_bench.config.values import (
    MOST_ENTRIES,
    ROWS,
    BatchSize,
    Distinct,
    Folder,
    InnerPath,
    Name,
    Prose,
    Real,
    Repeats,
    Seed,
    Threads,
    Title,
    Tokens,
    Whole,
)

__all__ = ["Config", "Model", "Task"]

Compression = Annotated[Real, Field(gt=0, lt=1)]
EpochsAfter = Annotated[Whole, Field(ge=0, le=10_000)]
Epochs = EpochsAfter | Literal["all"]  # all: as many as in the original training
Entries = Field(min_length=1, max_length=MOST_ENTRIES)
MOST_VALUES = 1000  # of one list
MOST_SPECS = 10_000  # combinations of parameters, of all methods together
MOST_CHECKPOINTS = 10_000


class MethodGrid(Strict):
    """A method with fixed `params` and a `grid` of others; every combination is run.

    Its `compressions`, if any, are run instead of those of the experiment: some methods cannot
    save as much as others. `quantize` lists the precisions of its factors: null for float32, a
    number of bits, `auto`, or a mapping of `bits`, `group` and `scale`.
    """

    name: Name
    params: dict[Name, Any] = Field(default_factory=dict, max_length=MOST_ENTRIES)
    grid: dict[Name, Annotated[list[Any], Field(min_length=1, max_length=MOST_VALUES)]] = Field(
        default_factory=dict, max_length=MOST_ENTRIES
    )
    compressions: Annotated[list[Compression], Distinct] = Field([], max_length=100)
    quantize: Annotated[list[Any], Distinct] = Field([None], min_length=1, max_length=100)

    def combinations(self) -> int:
        """Return how many combinations of parameters and precisions the grid has."""
        return prod(len(values) for values in self.grid.values()) * len(self.quantize)

    @model_validator(mode="after")
    def _quantize_stands_alone(self) -> "MethodGrid":
        for section, values in (("params", self.params), ("grid", self.grid)):
            if "quantize" in values:
                raise ValueError(
                    f"{section} holds quantize, which is a key of its own; list its values in "
                    f"method.{self.name}.quantize"
                )
        return self

    @field_validator("grid")
    @classmethod
    def _distinct(cls, grid: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for name, values in grid.items():
            for place, value in enumerate(values):
                if value in values[:place]:
                    raise ValueError(f"{name} lists {value!r} twice; list each value once")
        return grid


class Hub(Strict):
    """How the download rule uses the hub.

    `revision` replaces all pinned revisions, for mirrors that only have `main`; checksums are still
    verified. `unofficial` accepts files whose checksum or row count differs from the official one,
    and labels all results that depend on them.
    """

    revision: InnerPath | None = None
    unofficial: bool = False


class Evaluation(Strict):
    """How cells are evaluated.

    A batch holds up to `max_tokens` tokens, padding included; rows are truncated to `max_length`
    tokens. A `device` of null selects the best one. `precision` is that of the forward pass: `bf16`
    is faster, and results are labelled with it. `train_rows` training rows are also predicted, for
    `select`.
    """

    max_tokens: Tokens
    max_length: Annotated[Whole, Field(ge=8, le=131_072)]
    device: Literal["cpu", "cuda", "mps"] | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    train_rows: Annotated[Whole, Field(ge=0, le=ROWS)] = 0


class Calibration(Strict):
    """Number and batch size of the training rows that data-aware network methods use."""

    rows: Annotated[Whole, Field(ge=1, le=1_000_000)]
    batch_size: BatchSize


class Factorize(Strict):
    """Device for decompositions and compressions, which need float64; mps does not support it."""

    device: Literal["cpu", "cuda"] = "cpu"


class Statistics(Strict):
    """Number of bootstrap resamples, and the method that all others are compared with.

    With `halves`, the best method is chosen on one half of every split and confirmed on the other.
    """

    resamples: Annotated[Whole, Field(ge=100, le=100_000)]
    seed: Seed
    baseline: Name
    halves: bool = False


class Latency(Strict):
    """How the speed of compressed networks is compared with that of the dense one.

    Measured for every batch size in `batches` and every text length in `lengths` (tokens); nothing
    is measured if `batches` is empty. Each network runs `warm_up` forward passes; then `repeats`
    passes of all networks are timed in turn.
    """

    batches: Annotated[list[BatchSize], Field(max_length=100), Distinct]
    lengths: Annotated[list[Tokens], Field(min_length=1, max_length=100), Distinct]
    repeats: Repeats
    warm_up: Annotated[Whole, Field(ge=3, le=10_000)]
    threads: Threads


class Jobs(Strict):
    """How work is divided into jobs: tasks and methods per process, threads, memory in MB."""

    tasks_per_checkpoint_job: Repeats
    tasks_per_job: Repeats
    methods_per_job: Repeats
    threads: Threads
    memory_mb: Annotated[Whole, Field(ge=1, le=16_777_216)]


class Config(Strict):
    """The complete configuration of one experiment."""

    name: Name
    title: Title
    description: Prose = ""
    seeds: Annotated[list[Seed], Field(min_length=1, max_length=MOST_VALUES), Distinct]
    compressions: Annotated[list[Compression], Field(min_length=1, max_length=100), Distinct]
    saved_bytes: Annotated[list[Compression], Distinct] = Field([], max_length=100)
    target: Target
    budget: Literal["parameters", "macs", "latency", "bytes"]
    rest: Literal["as_is", "fp16"] = "as_is"
    calibration: Calibration
    finetune_epochs: Annotated[list[Epochs], Distinct] = Field([0], min_length=1, max_length=100)
    protocol: Literal["one_shot", "iterative"]
    checkpoints: Literal["finetune", "published"]
    store: Folder
    plugins: Annotated[list[Folder], Distinct] = Field([], max_length=MOST_ENTRIES)
    model: dict[Name, Model] = Entries
    task: dict[Name, Task] = Entries
    method: dict[Name, MethodGrid] = Entries
    recipe: Recipe
    hub: Hub
    factorize: Factorize
    evaluation: Evaluation
    statistics: Statistics
    select: dict[Name, Name] = Field(default_factory=dict, max_length=MOST_ENTRIES)
    latency: Latency
    jobs: Jobs
    claims: dict[Name, Claim] = Field(default_factory=dict, max_length=MOST_VALUES)
    reference: dict[Name, Reference] = Field(default_factory=dict, max_length=MOST_ENTRIES)

    @model_validator(mode="before")
    @classmethod
    def _saves_bytes(cls, values: Any) -> Any:
        """Read a list of `saved_bytes` as compressions under a budget of bytes."""
        if isinstance(values, dict) and values.get("saved_bytes"):
            return {**values, "compressions": values["saved_bytes"], "budget": "bytes"}
        return values

    @model_validator(mode="after")
    def _is_bounded(self) -> "Config":
        specs = sum(entry.combinations() for entry in self.method.values())
        if specs > MOST_SPECS:
            raise ValueError(
                f"method = {', '.join(self.method)} has {specs:,} combinations of parameters, at "
                f"most {MOST_SPECS:,} are planned; shorten the lists in method.<name>.grid"
            )
        pairs = sum(
            model.modality == task.network_modality
            for model in self.model.values()
            for task in self.task.values()
        )
        if pairs * len(self.seeds) > MOST_CHECKPOINTS:
            raise ValueError(
                f"seeds = {len(self.seeds):,} values for {pairs:,} pairs of network and task are "
                f"more than {MOST_CHECKPOINTS:,} checkpoints; list fewer seeds, or split the "
                "experiment"
            )
        return self

    @model_validator(mode="after")
    def _baseline_is_run(self) -> "Config":
        names = {"svd", *(entry.name for entry in self.method.values())}
        if self.statistics.baseline not in names:
            raise ValueError(
                f"statistics.baseline = {self.statistics.baseline!r} is not a method of the "
                f"experiment; use one of {', '.join(sorted(names))}"
            )
        return self

    @model_validator(mode="after")
    def _selected_is_run(self) -> "Config":
        for name, parameter in self.select.items():
            entry = self.method.get(name)
            if entry is None or entry.name != name or parameter not in entry.grid:
                raise ValueError(
                    f"select.{name} = {parameter!r} has no values to choose from; list them in "
                    f"method.{name}.grid.{parameter}, with method.{name}.name = {name!r}"
                )
        if self.select and not self.evaluation.train_rows:
            raise ValueError(
                "select compares settings on training rows, but evaluation.train_rows = 0; "
                "set it to the number of rows to use"
            )
        return self

    @model_validator(mode="after")
    def _has_pairs(self) -> "Config":
        kinds = {task.network_modality for task in self.task.values()}
        for name, model in self.model.items():
            if model.modality not in kinds:
                raise ValueError(
                    f"model.{name}.modality = {model.modality!r}, but no task of the experiment "
                    "has this modality; add such a task or remove the model"
                )
            target = self.target_of(model)
            if (model.modality == "image") != (target == "conv"):
                key = "target" if model.target is None else f"model.{name}.target"
                raise ValueError(
                    f"{key} = {target!r} does not fit model.{name}, whose modality is "
                    f"{model.modality!r}; use conv for images, embedding or linear for texts"
                )
        return self

    @model_validator(mode="after")
    def _rest_is_there(self) -> "Config":
        targets = {self.target_of(model) for model in self.model.values()}
        if self.rest != "as_is" and targets <= {"embedding"}:
            raise ValueError(
                f"rest = {self.rest!r} is for whole networks, and the target is embedding; use "
                "target = 'linear', or rest = 'as_is'"
            )
        return self

    @model_validator(mode="after")
    def _precision_needs_bytes(self) -> "Config":
        for name, entry in self.method.items():
            if entry.quantize != [None] and self.budget != "bytes":
                raise ValueError(
                    f"method.{name}.quantize = {entry.quantize} stores factors in few bits, which "
                    f"budget = {self.budget!r} does not count; set budget to bytes, or list "
                    "saved_bytes"
                )
        return self

    def target_of(self, model: Model) -> str:
        """Return the kind of layers that are compressed in a network."""
        if model.target is None and model.modality == "image":
            return "conv"
        return model.target or self.target

    @model_validator(mode="after")
    def _iteration_trains(self) -> "Config":
        if self.protocol == "iterative":
            if 0 in self.finetune_epochs:
                raise ValueError(
                    "protocol = 'iterative' trains after every compression; take 0 out of "
                    f"finetune_epochs = {self.finetune_epochs}"
                )
            if any(self.target_of(model) == "embedding" for model in self.model.values()):
                raise ValueError(
                    "protocol = 'iterative' is only for the targets conv and linear, not for "
                    "embedding; change the target, or set protocol to one_shot"
                )
        return self

    @model_validator(mode="after")
    def _similarity_trains_nothing(self) -> "Config":
        for name, task in self.task.items():
            if task.modality == "similarity" and self.finetune_epochs != [0]:
                raise ValueError(
                    f"finetune_epochs = {self.finetune_epochs} trains after compression, and "
                    f"task.{name} takes networks as they are (modality similarity); set it to [0], "
                    "or run that task in an experiment of its own"
                )
        return self

    @model_validator(mode="after")
    def _published_exist(self) -> "Config":
        if self.checkpoints == "published":
            for name, model in self.model.items():
                # A task of similarity takes the network itself, which is published.
                pairs = [t for t, task in self.task.items() if task.modality == model.modality]
                missing = [task for task in pairs if task not in model.published]
                if missing:
                    raise ValueError(
                        f"checkpoints = 'published', but model.{name}.published has no entry for "
                        f"{', '.join(missing)}; add one, or set checkpoints to finetune"
                    )
        return self
