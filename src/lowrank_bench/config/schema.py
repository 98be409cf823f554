"""Every key that a configuration may have, with its type and meaning."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Metric = Literal["accuracy", "f1", "matthews_correlation", "pearson", "spearmanr"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Compression = Annotated[float, Field(gt=0, lt=1)]
Architecture = Literal["bert", "distilbert", "roberta", "xlnet"]


class Strict(BaseModel):
    """A section of the configuration: frozen, unknown keys rejected."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class HubSource(Strict):
    """A repository of a Hugging Face hub; `config` names a data set's configuration."""

    kind: Literal["hub"]
    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str
    config: str | None = None


class SyntheticNetwork(Strict):
    """A small network, randomly initialised with a planted embedding table."""

    kind: Literal["synthetic"]
    architecture: Architecture
    seed: int = 0
    sizes: dict[str, int] = {}


class SyntheticTask(Strict):
    """A generated task in the schema of the GLUE task of that name."""

    kind: Literal["synthetic"]
    task: str
    seed: int = 0


class RecipePatch(Strict):
    """Training settings that a model or a task changes."""

    epochs: int | None = Field(None, ge=1)
    learning_rate: float | None = Field(None, gt=0)
    batch_size: int | None = Field(None, ge=1)
    warmup: float | None = Field(None, ge=0, lt=1)
    weight_decay: float | None = Field(None, ge=0)
    max_grad_norm: float | None = Field(None, gt=0)
    precision: Literal["fp32", "bf16"] | None = None


class Recipe(RecipePatch):
    """Training settings: AdamW with linear warm-up and decay."""

    epochs: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    batch_size: int = Field(ge=1)
    warmup: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    max_grad_norm: float = Field(gt=0)
    precision: Literal["fp32", "bf16"]


class Published(Strict):
    """A checkpoint that others fine-tuned; `labels` names its outputs in order of their ids.

    Leave `labels` empty when the checkpoint's own label names are the task's.
    """

    repo: str
    revision: str
    labels: list[str] = []


class Model(Strict):
    """A network: where it comes from and what its training changes in the recipe."""

    title: str
    source: HubSource | SyntheticNetwork = Field(discriminator="kind")
    sha256: dict[str, Sha256] = {}
    recipe: RecipePatch = RecipePatch()
    published: dict[str, Published] = {}


class TrainSplit(Strict):
    """The training rows; `limit` keeps the first rows of a seeded shuffle, and is labelled."""

    split: str = "train"
    rows: int | None = Field(None, ge=1)
    sha256: Sha256 | None = None
    limit: int | None = Field(None, ge=1)


class EvaluationSplit(Strict):
    """One evaluated split and its metrics, the headline metric first."""

    split: str
    metrics: list[Metric] = Field(min_length=1)
    rows: int | None = Field(None, ge=1)
    sha256: Sha256 | None = None


class Task(Strict):
    """A text classification (or, without labels, regression) task."""

    title: str
    glue: str | None = None
    note: str = ""
    source: HubSource | SyntheticTask = Field(discriminator="kind")
    columns: list[str] = Field(min_length=1, max_length=2)
    label: str = "label"
    labels: list[str]
    train: TrainSplit
    evaluation: list[EvaluationSplit] = Field(min_length=1)
    recipe: RecipePatch = RecipePatch()


class MethodGrid(Strict):
    """A method with fixed parameters, and a grid of others: every combination is run."""

    name: str
    params: dict[str, Any] = {}
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}

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

    `train_rows` training rows are predicted as well, for `select`.
    """

    max_tokens: int = Field(ge=1)
    max_length: int = Field(ge=8)
    device: Literal["cpu", "cuda", "mps"] | None = None
    train_rows: int = Field(0, ge=0)


class Statistics(Strict):
    """Bootstrap resamples, and the method that all others are compared with.

    With `halves` the best method is chosen on one half of every split and confirmed on the other.
    """

    resamples: int = Field(ge=100)
    seed: int
    baseline: str
    halves: bool = False


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
    target: Literal["embedding"]
    finetune_epochs: list[Annotated[int, Field(ge=0)]] = Field([0], min_length=1)
    checkpoints: Literal["finetune", "published"]
    store: str
    model: dict[str, Model] = Field(min_length=1)
    task: dict[str, Task] = Field(min_length=1)
    method: dict[str, MethodGrid] = Field(min_length=1)
    recipe: Recipe
    hub: Hub
    evaluation: Evaluation
    statistics: Statistics
    select: dict[str, str] = {}
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
    def _published_exist(self) -> "Config":
        if self.checkpoints == "published":
            for name, model in self.model.items():
                missing = [task for task in self.task if task not in model.published]
                if missing:
                    raise ValueError(
                        f"checkpoints: published, but model.{name}.published names none for "
                        f"{', '.join(missing)}"
                    )
        return self
