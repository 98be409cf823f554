"""What a network and a task may say of themselves: the files of conf/model and conf/task."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Metric = Literal["accuracy", "f1", "matthews_correlation", "pearson", "spearmanr"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Architecture = Literal["bert", "distilbert", "roberta", "xlnet"]
VisionArchitecture = Literal[
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "vgg16_bn",
    "densenet22",
    "wrn16_8",
]
Modality = Literal["text", "image"]
Target = Literal["embedding", "linear", "conv"]
ImageEncoding = Literal["png", "jpeg"]


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


class VisionNetwork(Strict):
    """A CNN for small images, drawn from the checkpoint's seed.

    `shortcut` A keeps the parameter-free shortcuts of the original ResNets, B convolves.
    """

    kind: Literal["vision"]
    architecture: VisionArchitecture
    shortcut: Literal["A", "B"] = "B"
    sizes: dict[str, int] = {}


class SyntheticTask(Strict):
    """A generated task in the schema of the GLUE task of that name."""

    kind: Literal["synthetic"]
    task: str
    seed: int = 0


class DigitsTask(Strict):
    """scikit-learn's handwritten digits, split by `seed`."""

    kind: Literal["digits"]
    seed: int = 0


class FolderTask(Strict):
    """A local folder `<split>/<class>/<image>`, as ImageNet is kept."""

    kind: Literal["folder"]
    path: str


class RecipePatch(Strict):
    """Training settings that a model or a task changes.

    Those after `precision` are for images alone, `warmup` and `max_grad_norm` for texts alone.
    `milestones` and `step` are epochs at which the rate is multiplied by `gamma`; with `rewind`
    training after compression takes the rates of the last epochs.

    `patience` ends a training after so many epochs without a lower loss on the task's
    `train.holdout` rows, and keeps the best epoch's network. `freeze: embedding` keeps the table
    of a network for texts, or its factors, from being trained.
    """

    epochs: int | None = Field(None, ge=1)
    learning_rate: float | None = Field(None, gt=0)
    batch_size: int | None = Field(None, ge=1)
    warmup: float | None = Field(None, ge=0, lt=1)
    weight_decay: float | None = Field(None, ge=0)
    max_grad_norm: float | None = Field(None, gt=0)
    precision: Literal["fp32", "bf16"] | None = None
    patience: int | None = Field(None, ge=1)
    freeze: Literal["embedding"] | None = None
    optimizer: Literal["adamw", "sgd", "rmsprop"] | None = None
    momentum: float | None = Field(None, ge=0, lt=1)
    nesterov: bool | None = None
    milestones: list[Annotated[int, Field(ge=1)]] | None = None
    step: int | None = Field(None, ge=1)
    gamma: float | None = Field(None, gt=0, le=1)
    warmup_epochs: float | None = Field(None, ge=0)
    augment: Literal["none", "crop_flip", "resized_crop"] | None = None
    rewind: bool | None = None


class Recipe(RecipePatch):
    """Training settings; for texts AdamW with linear warm-up and decay."""

    epochs: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    batch_size: int = Field(ge=1)
    warmup: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    max_grad_norm: float = Field(gt=0)
    precision: Literal["fp32", "bf16"]


class Published(Strict):
    """A checkpoint that others fine-tuned; `labels` names its outputs in order of their ids.

    Leave `labels` empty when the checkpoint's own label names are the task's. `file` names a
    file of torch tensors; `network` says which CNN they belong to, `mean` and `std` how it was
    given pixels, where that is not as the task says.
    """

    repo: str
    revision: str
    labels: list[str] = []
    file: str | None = None
    sha256: dict[str, Sha256] = {}
    network: VisionNetwork | None = None
    mean: list[float] | None = None
    std: list[float] | None = None


class Model(Strict):
    """A network: where it comes from and what its training changes in the recipe.

    It runs on the tasks of its modality. `target` replaces the experiment's for this network.
    """

    title: str
    modality: Modality = "text"
    target: Target | None = None
    source: HubSource | SyntheticNetwork | VisionNetwork = Field(discriminator="kind")
    sha256: dict[str, Sha256] = {}
    recipe: RecipePatch = RecipePatch()
    published: dict[str, Published] = {}


class TrainSplit(Strict):
    """The training rows; `limit` keeps the first rows of a seeded shuffle, and is labelled.

    The last `holdout` rows of that shuffle are kept out of training; the evaluated split
    `<split>[-<holdout>:]` holds them.
    """

    split: str = "train"
    encoding: ImageEncoding | None = None
    holdout: int | None = Field(None, ge=1)
    rows: int | None = Field(None, ge=1)
    sha256: Sha256 | None = None
    limit: int | None = Field(None, ge=1)


class EvaluationSplit(Strict):
    """One evaluated split and its metrics, the headline metric first.

    A split with `choice` chooses the largest compression that costs little; the others report it.
    """

    split: str
    encoding: ImageEncoding | None = None
    choice: bool = False
    metrics: list[Metric] = Field(min_length=1)
    rows: int | None = Field(None, ge=1)
    sha256: Sha256 | None = None


class ImageInput(Strict):
    """How images become the network's square input: its size, channels and normalisation.

    `mean` and `std` are of pixels in [0, 1]. `resize` scales the shorter side first, the middle
    is then cut out.
    """

    size: int = Field(ge=4)
    channels: Literal[1, 3] = 3
    mean: list[float]
    std: list[float]
    resize: int | None = Field(None, ge=4)

    @model_validator(mode="after")
    def _one_for_each_channel(self) -> "ImageInput":
        for name in ("mean", "std"):
            if len(getattr(self, name)) != self.channels:
                raise ValueError(f"{name} needs {self.channels} numbers, one for each channel")
        return self


class Task(Strict):
    """Classification of texts or images, or, without labels, a regression of texts.

    A number of `labels` stands for that many, named by their number.
    """

    title: str
    modality: Modality = "text"
    glue: str | None = None
    note: str = ""
    source: HubSource | SyntheticTask | DigitsTask | FolderTask = Field(discriminator="kind")
    image: ImageInput | None = None
    columns: list[str] = Field(min_length=1, max_length=2)
    label: str = "label"
    labels: list[str]
    train: TrainSplit
    evaluation: list[EvaluationSplit] = Field(min_length=1)
    recipe: RecipePatch = RecipePatch()

    @field_validator("labels", mode="before")
    @classmethod
    def _numbered(cls, labels: Any) -> Any:
        return [str(number) for number in range(labels)] if isinstance(labels, int) else labels

    @model_validator(mode="after")
    def _images_are_described(self) -> "Task":
        if (self.modality == "image") != (self.image is not None):
            raise ValueError("a task of modality image, and no other, needs the section image")
        return self
