"""Entries of the groups model and task: the keys of the files in conf/model and conf/task."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lowrank_bench.config.heads import head_fault, similarity_fault
from lowrank_bench.config.values import (
    MOST_ENTRIES,
    MOST_LABELS,
    BatchSize,
    Deviation,
    Distinct,
    EpochCount,
    Factor,
    Folder,
    InnerPath,
    LayerSize,
    LearningRate,
    Mean,
    Name,
    Norm,
    Pixels,
    Prose,
    Real,
    Repository,
    RowCount,
    Seed,
    Share,
    SplitName,
    SplitPart,
    Strength,
    Title,
)

Metric = Literal[
    "accuracy", "f1", "matthews_correlation", "pearson", "spearmanr", "cosine_to_dense"
]
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
Modality = Literal["text", "image"]  # of networks
Kind = Literal["text", "image", "similarity"]  # of tasks
Target = Literal["embedding", "linear", "conv"]
ImageEncoding = Literal["png", "jpeg"]
Pooling = Literal["mean", "cls"]
Glue = Literal["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"]
Sizes = Annotated[dict[Name, LayerSize], Field(max_length=20)]
Checksums = Annotated[dict[InnerPath, Sha256], Field(max_length=100)]
Labels = Annotated[list[Title], Field(max_length=MOST_LABELS), Distinct]
Channels = Field(min_length=1, max_length=3)  # one number for each


class Strict(BaseModel):
    """Base of all sections of the configuration: immutable, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class HubSource(Strict):
    """A repository on a Hugging Face hub; `config` names the configuration of a data set."""

    kind: Literal["hub"]
    repo: Repository
    revision: InnerPath
    config: SplitName | None = None


class SyntheticNetwork(Strict):
    """A small network with random weights and a planted embedding table."""

    kind: Literal["synthetic"]
    architecture: Architecture
    seed: Seed = 0
    sizes: Sizes = {}


class VisionNetwork(Strict):
    """A CNN for small images, initialised from the seed of the checkpoint.

    `shortcut: A` uses the parameter-free shortcuts of the original ResNets, `B` convolutions.
    """

    kind: Literal["vision"]
    architecture: VisionArchitecture
    shortcut: Literal["A", "B"] = "B"
    sizes: Sizes = {}


class SyntheticTask(Strict):
    """A generated task in the schema of the GLUE task with this name."""

    kind: Literal["synthetic"]
    task: Glue
    seed: Seed = 0


class DigitsTask(Strict):
    """scikit-learn's handwritten digits, split by `seed`."""

    kind: Literal["digits"]
    seed: Seed = 0


class FolderTask(Strict):
    """A local folder `<split>/<class>/<image>`, the usual layout of ImageNet."""

    kind: Literal["folder"]
    path: Folder


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

    epochs: EpochCount | None = None
    learning_rate: LearningRate | None = None
    batch_size: BatchSize | None = None
    warmup: Share | None = None
    weight_decay: Strength | None = None
    max_grad_norm: Norm | None = None
    precision: Literal["fp32", "bf16", "fp64"] | None = None
    patience: EpochCount | None = None
    freeze: Literal["embedding"] | None = None
    optimizer: Literal["adamw", "sgd", "rmsprop"] | None = None
    momentum: Share | None = None
    nesterov: bool | None = None
    milestones: Annotated[list[EpochCount], Field(max_length=100), Distinct] | None = None
    step: EpochCount | None = None
    gamma: Factor | None = None
    warmup_epochs: Annotated[Real, Field(ge=0, le=10_000)] | None = None
    augment: Literal["none", "crop_flip", "resized_crop"] | None = None
    rewind: bool | None = None


class Recipe(RecipePatch):
    """Complete training settings; texts use AdamW with linear warm-up and decay."""

    epochs: EpochCount
    learning_rate: LearningRate
    batch_size: BatchSize
    warmup: Share
    weight_decay: Strength
    max_grad_norm: Norm
    precision: Literal["fp32", "bf16", "fp64"]


class Published(Strict):
    """A published, already fine-tuned checkpoint; `labels` names its outputs in order of their ids.

    Leave `labels` empty if the checkpoint uses the label names of the task. `file` names a file of
    torch tensors, and `network` the CNN that they belong to. `mean` and `std` are the normalisation
    that the CNN was trained with, if it differs from that of the task.
    """

    repo: Repository
    revision: InnerPath
    labels: Labels = []
    file: InnerPath | None = None
    sha256: Checksums = {}
    network: VisionNetwork | None = None
    mean: Annotated[list[Mean], Channels] | None = None
    std: Annotated[list[Deviation], Channels] | None = None


class Model(Strict):
    """A network: its source, and the changes that it makes to the training recipe.

    It runs on all tasks of its modality. `target` overrides that of the experiment. Tasks of
    similarity put `prefix` before each sentence, for encoders that were trained so.
    """

    title: Title
    modality: Modality = "text"
    prefix: Title | None = None
    target: Target | None = None
    source: HubSource | SyntheticNetwork | VisionNetwork = Field(discriminator="kind")
    sha256: Checksums = {}
    recipe: RecipePatch = RecipePatch()
    published: dict[Name, Published] = Field(default={}, max_length=MOST_ENTRIES)


class TrainSplit(Strict):
    """The training rows.

    `limit` keeps the first rows of a seeded shuffle; results are labelled with it. The last
    `holdout` rows of that shuffle are excluded from training and form the evaluation split
    `<split>[-<holdout>:]`.
    """

    split: SplitName = "train"
    encoding: ImageEncoding | None = None
    holdout: RowCount | None = None
    rows: RowCount | None = None
    sha256: Sha256 | None = None
    limit: RowCount | None = None


class EvaluationSplit(Strict):
    """An evaluation split with its metrics, the main metric first.

    On a split with `choice: true`, the largest compression with a small drop is chosen; the other
    splits report the result.
    """

    split: SplitPart
    encoding: ImageEncoding | None = None
    choice: bool = False
    metrics: Annotated[list[Metric], Field(min_length=1, max_length=10), Distinct]
    rows: RowCount | None = None
    sha256: Sha256 | None = None


class ImageInput(Strict):
    """How images become the square input of the network: size, channels and normalisation.

    `mean` and `std` refer to pixels in [0, 1]. `resize` first scales the shorter side to this
    length; then the centre is cropped.
    """

    size: Pixels
    channels: Literal[1, 3] = 3
    mean: Annotated[list[Mean], Channels]
    std: Annotated[list[Deviation], Channels]
    resize: Pixels | None = None

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

    With `modality: similarity` networks of texts are used as they are, as encoders of sentences:
    the prediction is the cosine of the vectors of two sentences, and `label` names the column of
    human scores, or is null where there are none. `pooling` says how hidden states become a vector:
    `mean` or `cls`.
    """

    title: Title
    modality: Kind = "text"
    glue: Glue | None = None
    note: Prose = ""
    source: HubSource | SyntheticTask | DigitsTask | FolderTask = Field(discriminator="kind")
    image: ImageInput | None = None
    columns: Annotated[list[Title], Field(min_length=1, max_length=2), Distinct]
    label: Title | None = "label"
    labels: Labels
    pooling: Pooling | None = None
    train: TrainSplit
    evaluation: list[EvaluationSplit] = Field(min_length=1, max_length=MOST_ENTRIES)
    recipe: RecipePatch = RecipePatch()

    @property
    def network_modality(self) -> Modality:
        """Return the modality of the networks that the task runs on."""
        return "text" if self.modality == "similarity" else self.modality

    @model_validator(mode="before")
    @classmethod
    def _similarity_has_no_labels(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("modality") == "similarity":
            return {"labels": [], **values}
        return values

    @field_validator("labels", mode="before")
    @classmethod
    def _numbered(cls, labels: Any) -> Any:
        if not isinstance(labels, int):
            return labels
        if isinstance(labels, bool) or not 2 <= labels <= MOST_LABELS:
            raise ValueError(
                f"it should be a list of labels, or how many there are, from 2 to {MOST_LABELS:,}"
            )
        return [str(number) for number in range(labels)]

    @field_validator("labels")
    @classmethod
    def _more_than_one(cls, labels: list[str]) -> list[str]:
        if len(labels) == 1:
            raise ValueError("one label leaves nothing to tell apart; list two, or none")
        return labels

    @field_validator("evaluation")
    @classmethod
    def _each_split_once(cls, evaluation: list[EvaluationSplit]) -> list[EvaluationSplit]:
        names = [entry.split for entry in evaluation]
        for place, name in enumerate(names):
            if name in names[:place]:
                raise ValueError(f"it lists the split {name!r} twice; list each split once")
        return evaluation

    @model_validator(mode="after")
    def _labels_are_no_input(self) -> "Task":
        if self.label in self.columns:
            raise ValueError(
                f"columns = {self.columns} holds {self.label!r}, the column of the labels; take "
                "it out"
            )
        return self

    @model_validator(mode="after")
    def _fits_its_modality(self) -> "Task":
        check = similarity_fault if self.modality == "similarity" else head_fault
        if fault := check(self):
            raise ValueError(fault)
        return self

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
