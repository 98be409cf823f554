"""Every key that a configuration may have, with its type and meaning."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from lowrank_bench.config.entries import Model, Recipe, Strict, Target, Task

__all__ = ["Config", "Model", "Task"]

Compression = Annotated[float, Field(gt=0, lt=1)]
Epochs = Annotated[int, Field(ge=0)] | Literal["all"]  # all: as many as the network was trained for


class MethodGrid(Strict):
    """A method with fixed parameters, and a grid of others: every combination is run."""

    name: str
    params: dict[str, Any] = Field(default_factory=dict)
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)

    @field_validator("grid")
    @classmethod
    def _distinct(cls, grid: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for name, values in grid.items():
            if any(value in values[:place] for place, value in enumerate(values)):
                raise ValueError(f"the list of {name} names a value twice")
        return grid


class Hub(Strict):
    """How the download rule treats a hub.

    `revision` replaces every pinned revision (for mirrors that keep only `main`; checksums still
    hold); `unofficial` accepts files whose checksum or row count is not the official one and
    labels every result that rests on them.
    """

    revision: str | None = None
    unofficial: bool = False


class Evaluation(Strict):
    """How cells are evaluated: padded tokens a batch, longest row, device (null: the best).

    `precision` is of the forward: reported numbers are `fp32`, `bf16` is faster and noted.
    `train_rows` training rows are predicted as well, for `select`.
    """

    max_tokens: int = Field(ge=1)
    max_length: int = Field(ge=8)
    device: Literal["cpu", "cuda", "mps"] | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    train_rows: int = Field(0, ge=0)


class Calibration(Strict):
    """Training rows that methods for whole networks look at: how many, and how many at once."""

    rows: int = Field(ge=1)
    batch_size: int = Field(ge=1)


class Factorize(Strict):
    """Where matrices are decomposed and networks compressed, in float64: mps has none."""

    device: Literal["cpu", "cuda"] = "cpu"


class Statistics(Strict):
    """Bootstrap resamples, and the method that all others are compared with.

    With `halves` the best method is chosen on one half of every split and confirmed on the other.
    """

    resamples: int = Field(ge=100)
    seed: int
    baseline: str
    halves: bool = False


class Latency(Strict):
    """Whether and how compressed networks are measured beside the dense one, in turn.

    `batches` of rows, of texts with so many tokens (`lengths`); without batches nothing is
    measured. `warm_up` forwards, then `repeats` of each network.
    """

    batches: list[Annotated[int, Field(ge=1)]]
    lengths: list[Annotated[int, Field(ge=1)]] = Field(min_length=1)
    repeats: int = Field(ge=1)
    warm_up: int = Field(ge=3)
    threads: int = Field(ge=1)


class Jobs(Strict):
    """How the work is cut: tasks and methods that share a process, threads, memory in MB."""

    tasks_per_checkpoint_job: int = Field(ge=1)
    tasks_per_job: int = Field(ge=1)
    methods_per_job: int = Field(ge=1)
    threads: int = Field(ge=1)
    memory_mb: int = Field(ge=1)


class Config(Strict):
    """One experiment, complete."""

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
        if len(set(values)) != len(values):
            raise ValueError("the list names a value twice")
        return values

    @model_validator(mode="after")
    def _baseline_is_run(self) -> "Config":
        names = {entry.name for entry in self.method.values()}
        if self.statistics.baseline not in {*names, "svd"}:
            raise ValueError(
                f"statistics.baseline = {self.statistics.baseline!r} is none of the methods "
                f"({', '.join(sorted(names))})"
            )
        return self

    @model_validator(mode="after")
    def _selected_is_run(self) -> "Config":
        for name, parameter in self.select.items():
            entry = self.method.get(name)
            if entry is None or entry.name != name or parameter not in entry.grid:
                raise ValueError(
                    f"select.{name} = {parameter!r} chooses among the values of "
                    f"method.{name}.grid.{parameter}, which the experiment does not have"
                )
        if self.select and not self.evaluation.train_rows:
            raise ValueError("select chooses by the training rows; set evaluation.train_rows")
        return self

    @model_validator(mode="after")
    def _has_pairs(self) -> "Config":
        kinds = {task.modality for task in self.task.values()}
        for name, model in self.model.items():
            if model.modality not in kinds:
                raise ValueError(
                    f"model.{name} takes {model.modality}, and no task of the experiment gives "
                    "that; add such a task or leave the network out"
                )
            target = self.target_of(model)
            if (model.modality == "image") != (target == "conv"):
                raise ValueError(
                    f"model.{name} takes {model.modality} and cannot have the target {target!r}; "
                    "conv is for CNNs, embedding and linear are for texts"
                )
        return self

    def target_of(self, model: Model) -> str:
        """Return which layers of a network are compressed."""
        if model.target is None and model.modality == "image":
            return "conv"
        return model.target or self.target

    @model_validator(mode="after")
    def _iteration_trains(self) -> "Config":
        if self.protocol == "iterative":
            if 0 in self.finetune_epochs:
                raise ValueError(
                    "protocol: iterative trains after every compression; take 0 out of "
                    "finetune_epochs"
                )
            if any(self.target_of(model) == "embedding" for model in self.model.values()):
                raise ValueError("protocol: iterative is for the targets conv and linear")
        return self

    @model_validator(mode="after")
    def _published_exist(self) -> "Config":
        if self.checkpoints == "published":
            for name, model in self.model.items():
                pairs = [t for t, task in self.task.items() if task.modality == model.modality]
                missing = [task for task in pairs if task not in model.published]
                if missing:
                    raise ValueError(
                        f"checkpoints: published, but model.{name}.published names none for "
                        f"{', '.join(missing)}"
                    )
        return self
