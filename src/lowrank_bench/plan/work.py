"""What the pieces of a plan consist of, so that the time they take can be estimated beforehand.

A piece is a training, a decomposition, a cell. It is a sum of kinds of work, such as to load a
network and to predict with it; the same kind costs the same per unit wherever it occurs. Amounts
are rough, from what a configuration says: they only have to be right between pieces of one kind.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lowrank_bench.inputs.splits import split_and_range
from lowrank_bench.plan.cells import DENSE, Cell, Checkpoint, Job, Source, Spec

Kind = tuple[str, ...]  # from the general to the special: predict, text, quick_bert, quick_cola
Work = tuple[tuple[Kind, float], ...]  # kinds with their amounts

# Rows where the configuration knows no number, by kind of data or by task of the small suite.
TRAINING_ROWS = {"synthetic": 2520, "wnli": 635, "digits": 1100}
EVALUATED_ROWS = {"synthetic": 400, "wnli": 71, "digits": 350}
OTHER_ROWS = 10_000
# Multiply-adds of an example in units of the small networks' (text: two layers of width 64 and 12
# tokens; images: a ResNet of 8 layers and 16x16 pixels), as far as they show in the time.
HUB_SIZE = {"text": 60.0, "image": 600.0}
VISION_SIZE = {
    "resnet20": 12.0,
    "resnet32": 20.0,
    "resnet44": 28.0,
    "resnet56": 36.0,
    "resnet110": 72.0,
    "vgg16_bn": 60.0,
    "densenet22": 45.0,
    "wrn16_8": 400.0,
}
HUB_TABLE = 100.0  # entries times width of a published table, in units of 3,100 x 64 x 64


@dataclass(frozen=True)
class Piece:
    """One piece of work.

    Attributes
    ----------
    key
        Of the artifact that it makes.
    work
        Kinds of work, each with its amount.
    """

    key: str
    work: Work


@dataclass(frozen=True)
class Process:
    """A job as a sequence of pieces.

    Attributes
    ----------
    start
        What it does before the first of them.
    after
        Numbers of the processes that it waits for.
    """

    stage: str
    name: str
    start: Work
    pieces: tuple[Piece, ...]
    after: tuple[int, ...] = ()


@dataclass
class _Provided:
    """Which process makes a checkpoint, or a method's decompositions of one."""

    places: dict[tuple[str, ...], int] = field(default_factory=dict)

    def add(self, number: int, job: Job) -> None:
        """Note what a process makes."""
        for checkpoint in job.checkpoints:
            if job.stage == "checkpoint":
                self.places[checkpoint.key,] = number
            else:
                self.places |= {(checkpoint.key, spec.label): number for spec in job.specs}

    def before(self, job: Job) -> tuple[int, ...]:
        """Return the processes that a job waits for."""
        wanted: list[tuple[str, ...]]
        wanted = [(c.key, spec.label) for c in job.checkpoints for spec in job.specs]
        if job.stage == "factorize" or (job.specs and job.specs[0].method == DENSE):
            wanted = []
        wanted += [(checkpoint.key,) for checkpoint in job.checkpoints]
        return tuple(sorted({self.places[key] for key in wanted if key in self.places}))


def processes(stages: Mapping[str, Sequence[Job]]) -> list[Process]:
    """Return the jobs that compute something, in the order of the pipeline."""
    makers = {
        "checkpoint": _trainings,
        "factorize": _decompositions,
        "evaluate": _cells,
        "finetune": _cells,
    }
    listed: list[Process] = []
    provided = _Provided()
    for stage, maker in makers.items():
        for job in stages.get(stage, ()):
            after = () if stage == "checkpoint" else provided.before(job)
            if stage in ("checkpoint", "factorize"):
                provided.add(len(listed), job)
            pieces = tuple(maker(job))
            listed.append(Process(stage, job.name, _start(job), pieces, after))
    return listed


def presenting(before: int, cells: int, networks: int, measured: bool) -> list[Process]:
    """Return the jobs that come after all cells: scores, tables, figures, report.

    Parameters
    ----------
    before
        Number of processes before them.
    cells, networks
        Number of cells, and of the networks in the configuration.
    measured
        Whether the networks are timed, one after another.
    """
    amounts = {"score": cells, "latency": cells, "tables": cells, "figures": networks, "report": 0}
    names = [name for name in amounts if measured or name != "latency"]
    last = before + names.index("tables") - 1  # what tables and figures wait for
    after = {
        "score": tuple(range(before)),
        "latency": (before,),
        "tables": (last,),
        "figures": (last,),
        "report": (last + 1, last + 2),
    }
    return [
        Process(
            name, name, (((name,), 1.0), ((f"{name} each",), float(amounts[name]))), (), after[name]
        )
        for name in names
    ]


def _start(job: Job) -> Work:
    libraries = job.checkpoints[0].modality
    if job.stage == "factorize" and job.specs[0].target == "embedding":
        libraries = "matrix"
    return ((("start", libraries), 1.0),)


def _trainings(job: Job) -> Iterator[Piece]:
    """Yield the checkpoints of a job, and then their dense networks' cells."""
    for checkpoint in job.checkpoints:
        yield Piece(checkpoint.key, _training(checkpoint))
    for cell in job.cells():
        load = (("load", cell.checkpoint.modality, cell.checkpoint.model), size_of(cell.checkpoint))
        yield Piece(cell.key, (load, *_prediction(cell)))


def _training(checkpoint: Checkpoint, epochs: int | None = None) -> Work:
    recipe, modality, model = checkpoint.training_recipe, checkpoint.modality, checkpoint.model
    if epochs is None:
        take = (("take", modality, model), size_of(checkpoint) ** 0.5)
        if "epochs" not in checkpoint.recipe:
            return (take,)
        epochs = recipe["epochs"]
    rows = _training_rows(checkpoint) * _length(checkpoint)
    amount = rows * epochs * size_of(checkpoint) / 1000
    return ((("train", modality, model), amount),)


def _decompositions(job: Job) -> Iterator[Piece]:
    """Yield what a job decomposes; facts about rows are computed once for each checkpoint."""
    ready: set[tuple[str, str]] = set()
    for key, (checkpoint, spec, _) in job.decompositions().items():
        work = [_decomposition(checkpoint, spec)]
        for need in (*spec.needs, f"read {spec.target}"):
            if (checkpoint.key, need) not in ready:
                ready.add((checkpoint.key, need))
                work.append(_fact(checkpoint, need))
        yield Piece(key, tuple(work))


def _decomposition(checkpoint: Checkpoint, spec: Spec) -> tuple[Kind, float]:
    kind = ("compress", spec.target, spec.method, spec.label, checkpoint.model)
    return kind, _table(checkpoint) if spec.target == "embedding" else size_of(checkpoint) ** 0.5


def _fact(checkpoint: Checkpoint, name: str) -> tuple[Kind, float]:
    if name == "fisher":  # one pass over the training rows
        return ("fact", name, checkpoint.model), _training(checkpoint, 1)[0][1]
    return ("fact", *name.split(), checkpoint.model), 1.0


def _cells(job: Job) -> Iterator[Piece]:
    """Yield the cells of a job; each checkpoint is loaded once."""
    seen: set[str] = set()
    for cell in job.cells():
        checkpoint, spec = cell.checkpoint, cell.spec
        work = list(_prediction(cell))
        if checkpoint.key not in seen:
            seen.add(checkpoint.key)
            work.append((("load", checkpoint.modality, checkpoint.model), size_of(checkpoint)))
        if spec.method != DENSE:
            size = _table(checkpoint) if spec.target == "embedding" else size_of(checkpoint) ** 0.5
            work.append((("insert", spec.target, spec.method, checkpoint.model), size))
        if cell.finetune_epochs:
            work += _training(checkpoint, cell.finetune_epochs)
        yield Piece(cell.key, tuple(work))


def _prediction(cell: Cell) -> Work:
    checkpoint = cell.checkpoint
    kind = ("predict", checkpoint.modality, checkpoint.model, checkpoint.task)
    return ((kind, _evaluated_rows(checkpoint) * size_of(checkpoint) / 1000),)


def size_of(checkpoint: Checkpoint) -> float:
    """Return the size of a network, as it shows in the time of an example; roughly."""
    spec: Mapping[str, Any] = checkpoint.network.spec
    spec = checkpoint.recipe.get("published", {}).get("network") or spec
    kind, sizes = spec["kind"], spec.get("sizes") or {}
    if kind == "synthetic":
        return float((sizes.get("width", 64) / 64) ** 2 * sizes.get("layers", 2) / 2)
    modality = "image" if checkpoint.modality == "image" else "text"
    if kind != "vision":
        return HUB_SIZE[modality]
    size = VISION_SIZE.get(spec["architecture"], HUB_SIZE["image"])
    pixels = checkpoint.inputs.get("image", {}).get("size", 32)
    return float(size * sizes.get("blocks", 3) / 3 * (pixels / 32) ** 2)


def _table(checkpoint: Checkpoint) -> float:
    spec = checkpoint.network.spec
    if spec["kind"] != "synthetic":
        return HUB_TABLE
    return float(((spec.get("sizes") or {}).get("width", 64) / 64) ** 2)


def _training_rows(checkpoint: Checkpoint) -> float:
    recipe, data = checkpoint.training_recipe, checkpoint.data
    if limit := recipe.get("train_limit"):
        return float(limit)
    rows = data.checks.get("splits", {}).get(data.checks.get("train"), {}).get("rows")
    return float(rows or _made_rows(data, TRAINING_ROWS) or OTHER_ROWS)


def _evaluated_rows(checkpoint: Checkpoint) -> float:
    data, total = checkpoint.data, 0.0
    for name in checkpoint.evaluation:
        whole, part = split_and_range(name)
        known = data.checks.get("splits", {}).get(whole, {}).get("rows")
        if part is not None:  # of a shuffle: its last rows, or its first
            known = abs(part.start or part.stop or 0) or known
        total += known or _made_rows(data, EVALUATED_ROWS) or OTHER_ROWS / 4
    return total * _length(checkpoint)


def _made_rows(data: Source, counts: Mapping[str, int]) -> int:
    """Return the rows of a generated split; 0 where they are not generated."""
    kind = data.spec["kind"]
    return counts.get(data.spec.get("task", ""), counts.get(kind, 0))


def _length(checkpoint: Checkpoint) -> float:
    """Return how long rows are, in units of a single sentence or image."""
    return (1 + len(checkpoint.inputs["columns"])) / 2
