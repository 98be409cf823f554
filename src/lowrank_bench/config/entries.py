"""Entries of the groups model and task: the keys of the files in conf/model and conf/task."""

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
    """Base of all sections of the configuration: immutable, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class HubSource(Strict):
    """A repository on a Hugging Face hub; `config` names the configuration of a data set."""

    kind: Literal["hub"]
    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str
    config: str | None = None


class SyntheticNetwork(Strict):
    """A small network with random weights and a planted embedding table."""

    kind: Literal["synthetic"]
    architecture: Architecture
    seed: int = 0
    sizes: dict[str, int] = {}


class VisionNetwork(Strict):
    """A CNN for small images, initialised from the seed of the checkpoint.

    `shortcut: A` uses the parameter-free shortcuts of the original ResNets, `B` convolutions.
    """

    kind: Literal["vision"]
    architecture: VisionArchitecture
    shortcut: Literal["A", "B"] = "B"
    sizes: dict[str, int] = {}


class SyntheticTask(Strict):
    """A generated task in the schema of the GLUE task with this name."""

    kind: Literal["synthetic"]
    task: str
    seed: int = 0


class DigitsTask(Strict):
    """scikit-learn's handwritten digits, split by `seed`."""

    kind: Literal["digits"]
    seed: int = 0


class FolderTask(Strict):
    """A local folder `<split>/<class>/<image>`, the usual layout of ImageNet."""

    kind: Literal["folder"]
    path: str


class RecipePatch(Strict):
    """Training settings that a model or a task overrides.

    `patience` stops training after this many epochs without a lower loss on the `train.holdout`
    rows of the task, and keeps the network of the best epoch. `freeze: embedding` excludes the
    embedding table of a text network, or its factors, from training.

    `warmup` and `max_grad_norm` apply to texts only; the settings from `optimizer` on apply to
    images only. The learning rate is multiplied by `gamma` at each epoch in `milestones`, or every
    `step` epochs. With `rewind`, training after compression uses the learning rates of the last
    epochs.
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
    """Complete training settings; texts use AdamW with linear warm-up and decay."""

    epochs: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    batch_size: int = Field(ge=1)
    warmup: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    max_grad_norm: float = Field(gt=0)
    precision: Literal["fp32", "bf16"]


class Published(Strict):
    """A published, already fine-tuned checkpoint; `labels` names its outputs in order of their ids.

    Leave `labels` empty if the checkpoint uses the label names of the task. `file` names a file of
    torch tensors, and `network` the CNN that they belong to. `mean` and `std` are the normalisation
    that the CNN was trained with, if it differs from that of the task.
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
    """A network: its source, and the changes that it makes to the training recipe.

    It runs on all tasks of its modality. `target` overrides that of the experiment.
    """

    title: str
    modality: Modality = "text"
    target: Target | None = None
    source: HubSource | SyntheticNetwork | VisionNetwork = Field(discriminator="kind")
    sha256: dict[str, Sha256] = {}
    recipe: RecipePatch = RecipePatch()
    published: dict[str, Published] = {}


class TrainSplit(Strict):
    """The training rows.

    `limit` keeps the first rows of a seeded shuffle; results are labelled with it. The last
    `holdout` rows of that shuffle are excluded from training and form the evaluation split
    `<split>[-<holdout>:]`.
    """

    split: str = "train"
    encoding: ImageEncoding | None = None
    holdout: int | None = Field(None, ge=1)
    rows: int | None = Field(None, ge=1)
    sha256: Sha256 | None = None
    limit: int | None = Field(None, ge=1)


class EvaluationSplit(Strict):
    """An evaluation split with its metrics, the main metric first.

    On a split with `choice: true`, the largest compression with a small drop is chosen; the other
    splits report the result.
    """

    split: str
    encoding: ImageEncoding | None = None
    choice: bool = False
    metrics: list[Metric] = Field(min_length=1)
    rows: int | None = Field(None, ge=1)
    sha256: Sha256 | None = None


class ImageInput(Strict):
    """How images become the square input of the network: size, channels and normalisation.

    `mean` and `std` refer to pixels in [0, 1]. `resize` first scales the shorter side to this
    length; then the centre is cropped.
    """

    size: int = Field(ge=4)
    channels: Literal[1, 3] = 3
    mean: list[float]
    std: list[float]
    resize: int | None = Field(None, ge=4)

    @model_validator(mode="after")
    def _one_for_each_channel(self) -> "ImageInput":
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != self.channels:
                raise ValueError(
                    f"{name} = {values} must hold {self.channels} numbers, one per channel"
                )
        return self


class Task(Strict):
    """Classification of texts or images, or, if `labels` is empty, regression of texts.

    An integer as `labels` stands for that many labels, named "0", "1", and so on.
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
        if self.modality == "image" and self.image is None:
            raise ValueError("modality = 'image' requires the section image; add it")
        if self.modality != "image" and self.image is not None:
            raise ValueError(
                f"modality = {self.modality!r} does not allow the section image; remove it, or set "
                "modality to image"
            )
        return self
