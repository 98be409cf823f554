"""All keys of a configuration, with their types and meanings."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from lowrank_bench.config.entries import Model, Recipe, Strict, Target, Task

__all__ = ["Config", "Model", "Task"]

Compression = Annotated[float, Field(gt=0, lt=1)]
Epochs = Annotated[int, Field(ge=0)] | Literal["all"]  # all: as many as in the original training


class MethodGrid(Strict):
    """A method with fixed `params` and a `grid` of others; every combination is run."""

    name: str
    params: dict[str, Any] = Field(default_factory=dict)
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)

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

    revision: str | None = None
    unofficial: bool = False


class Evaluation(Strict):
    """How cells are evaluated.

    A batch holds up to `max_tokens` tokens, padding included; rows are truncated to `max_length`
    tokens. A `device` of null selects the best one. `precision` is that of the forward pass: `bf16`
    is faster, and results are labelled with it. `train_rows` training rows are also predicted, for
    `select`.
    """

    max_tokens: int = Field(ge=1)
    max_length: int = Field(ge=8)
    device: Literal["cpu", "cuda", "mps"] | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    train_rows: int = Field(0, ge=0)


class Calibration(Strict):
    """Number and batch size of the training rows that data-aware network methods use."""

    rows: int = Field(ge=1)
    batch_size: int = Field(ge=1)


class Factorize(Strict):
    """Device for decompositions and compressions, which need float64; mps does not support it."""

    device: Literal["cpu", "cuda"] = "cpu"


class Statistics(Strict):
    """Number of bootstrap resamples, and the method that all others are compared with.

    With `halves`, the best method is chosen on one half of every split and confirmed on the other.
    """

    resamples: int = Field(ge=100)
    seed: int
    baseline: str
    halves: bool = False


class Latency(Strict):
    """How the speed of compressed networks is compared with that of the dense one.

    Measured for every batch size in `batches` and every text length in `lengths` (tokens); nothing
    is measured if `batches` is empty. Each network runs `warm_up` forward passes; then `repeats`
    passes of all networks are timed in turn.
    """

    batches: list[Annotated[int, Field(ge=1)]]
    lengths: list[Annotated[int, Field(ge=1)]] = Field(min_length=1)
    repeats: int = Field(ge=1)
    warm_up: int = Field(ge=3)
    threads: int = Field(ge=1)


class Jobs(Strict):
    """How work is divided into jobs: tasks and methods per process, threads, memory in MB."""

    tasks_per_checkpoint_job: int = Field(ge=1)
    tasks_per_job: int = Field(ge=1)
    methods_per_job: int = Field(ge=1)
    threads: int = Field(ge=1)
    memory_mb: int = Field(ge=1)


class Config(Strict):
    """The complete configuration of one experiment."""

    name: str = Field(pattern=r"^[\w-]+$")
    title: str
    description: str = ""
    seeds: list[int] = Field(min_length=1)
    compressions: list[Compression] = Field(min_length=1)
    target: Target
    budget: Literal["parameters", "macs", "latency"]
    calibration: Calibration
    finetune_epochs: list[Epochs] = Field([0], min_length=1)
    protocol: Literal["one_shot", "iterative"]
    checkpoints: Literal["finetune", "published"]
    store: str
    plugins: list[str] = Field(default_factory=list)
    model: dict[str, Model] = Field(min_length=1)
    task: dict[str, Task] = Field(min_length=1)
    method: dict[str, MethodGrid] = Field(min_length=1)
    recipe: Recipe
    hub: Hub
    factorize: Factorize
    evaluation: Evaluation
    statistics: Statistics
    select: dict[str, str] = Field(default_factory=dict)
    latency: Latency
    jobs: Jobs

    @field_validator("seeds", "compressions", "finetune_epochs")
    @classmethod
    def _distinct(cls, values: list[Any]) -> list[Any]:
        for place, value in enumerate(values):
            if value in values[:place]:
                raise ValueError(f"it lists {value!r} twice; list each value once")
        return values

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
        kinds = {task.modality for task in self.task.values()}
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
    def _published_exist(self) -> "Config":
        if self.checkpoints == "published":
            for name, model in self.model.items():
                pairs = [t for t, task in self.task.items() if task.modality == model.modality]
                missing = [task for task in pairs if task not in model.published]
                if missing:
                    raise ValueError(
                        f"checkpoints = 'published', but model.{name}.published has no entry for "
                        f"{', '.join(missing)}; add one, or set checkpoints to finetune"
                    )
        return self
