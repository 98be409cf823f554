"""From a configuration to checkpoints, cells and jobs. Imports no torch: the Snakefile uses it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from lowrank_bench.cells import DENSE, Cell, Checkpoint, Job, Source, Spec, rows_of
from lowrank_bench.config.schema import Config, Model, Task
from lowrank_bench.digest import canonical, code_digest, digest
from lowrank_bench.errors import LowRankError
from lowrank_bench.methods import make_method

Points = dict[tuple[str, str], list[Checkpoint]]

TRAINING = (
    "lowrank_bench.checkpoint.pretrained",
    "lowrank_bench.checkpoint.finetune",
    "lowrank_bench.text.encode",
)
PUBLISHED = ("lowrank_bench.checkpoint.published", "lowrank_bench.text.encode")
EVALUATION = (
    "lowrank_bench.evaluate.predict",
    "lowrank_bench.layers.embedding",
    "lowrank_bench.linalg.certificate",
)
RETRAINING = ("lowrank_bench.evaluate.retrain", "lowrank_bench.text.training")
# The sources on which facts about the rows rest.
FACT_SOURCES = {
    "frequency": ("lowrank_bench.text.vocabulary",),
    "counts": ("lowrank_bench.text.counts", "lowrank_bench.text.training"),
    "fisher": ("lowrank_bench.factorize.fisher", "lowrank_bench.text.training"),
}
SYNTHETIC = {
    "network": ("lowrank_bench.synthetic.networks",),
    "data": ("lowrank_bench.synthetic.tasks",),
}


@dataclass(frozen=True)
class Plan:
    """All work of one experiment: the jobs of each stage, in the order of the pipeline."""

    download: tuple[Job, ...]
    checkpoint: tuple[Job, ...]
    factorize: tuple[Job, ...]
    evaluate: tuple[Job, ...]
    finetune: tuple[Job, ...]

    def stages(self) -> dict[str, tuple[Job, ...]]:
        """Return the jobs by stage."""
        return {
            "download": self.download,
            "checkpoint": self.checkpoint,
            "factorize": self.factorize,
            "evaluate": self.evaluate,
            "finetune": self.finetune,
        }

    def job(self, stage: str, name: str) -> Job:
        """Return the job of that stage and name."""
        return next(job for job in self.stages()[stage] if job.name == name)

    def cells(self) -> list[Cell]:
        """Return every cell, those of the dense networks first."""
        return [
            cell
            for job in (*self.checkpoint, *self.evaluate, *self.finetune)
            for cell in job.cells()
        ]


def make_plan(config: Config) -> Plan:
    """Return the jobs of an experiment.

    Raises
    ------
    LowRankError
        When a method or one of its parameters is unknown or out of range.
    """
    specs = {name: tuple(_specs(config, name)) for name in config.method}
    _check_distinct(specs)
    points = {(m, t): _checkpoints(config, m, t) for m in config.model for t in config.task}
    sources = {s.key: s for group in points.values() for p in group for s in p.fetched()}
    download = [_job("download", source.name, sources=(source,)) for source in sources.values()]
    code = evaluation_digest(config)
    dense: dict[str, Any] = {"specs": (dense_spec(config),), "compressions": (0.0,)}
    trained = [
        _job("checkpoint", name, checkpoints=batch, **dense, code=code)
        for name, batch in _batches(config, points, config.jobs.tasks_per_checkpoint_job)
    ]
    factorized, evaluated = [], []
    for name, batch in _batches(config, points, config.jobs.tasks_per_job):
        for methods, found in _method_batches(specs, config.jobs.methods_per_job):
            title = f"{name}.{methods}"
            parts: dict[str, Any] = {"checkpoints": batch, "specs": found}
            parts["compressions"] = tuple(config.compressions)
            factorized.append(_job("factorize", title, **parts))
            if 0 in config.finetune_epochs:
                evaluated.append(_job("evaluate", title, **parts, code=code))
    retrained = _retrained(config, points, specs, dense)
    stages = (download, trained, factorized, evaluated, retrained)
    return Plan(*(tuple(jobs) for jobs in stages))


def _retrained(
    config: Config, points: Points, specs: Mapping[str, tuple[Spec, ...]], dense: dict[str, Any]
) -> list[Job]:
    """Return the jobs that train after compression, the dense network as a reference too."""
    epochs = tuple(number for number in config.finetune_epochs if number)
    if not epochs:
        return []
    parts: dict[str, Any] = {"finetune_epochs": epochs}
    parts["code"] = digest([evaluation_digest(config), code_digest(*RETRAINING)])
    methods = {name: {"specs": found} for name, found in specs.items()}
    rates = {"compressions": tuple(config.compressions)}
    return [
        _job("finetune", f"{name}.{method}", checkpoints=batch, **{**rates, **chosen, **parts})
        for name, batch in _batches(config, points, 1)
        for method, chosen in {DENSE: dense, **methods}.items()
    ]


def _check_distinct(specs: Mapping[str, tuple[Spec, ...]]) -> None:
    """Refuse entries that would run the same method with the same parameters twice."""
    seen: dict[str, str] = {}
    for name, found in specs.items():
        for spec in found:
            key = canonical([spec.method, spec.params])
            if key in seen:
                raise LowRankError(
                    f"method.{name} runs {spec.label}, as method.{seen[key]} does already; "
                    "take one of them out"
                )
            seen[key] = name


def dense_spec(config: Config) -> Spec:
    """Return the pseudo-method of the network as trained."""
    return Spec(DENSE, {}, config.target, DENSE, "")


def evaluation_digest(config: Config) -> str:
    """Digest of what decides predictions beside the network: sources and row length."""
    return digest([code_digest(*EVALUATION), config.evaluation.max_length])


def _specs(config: Config, name: str) -> Iterator[Spec]:
    entry = config.method[name]
    twice = sorted(set(entry.params) & set(entry.grid))
    if twice:
        raise LowRankError(
            f"method.{name}: parameter {twice[0]!r} stands in params and in grid; keep one of them"
        )
    for values in product(*entry.grid.values()):
        method = make_method(
            entry.name, **entry.params, **dict(zip(entry.grid, values, strict=True))
        )
        facts = [source for need in method.needs for source in FACT_SOURCES[need]]
        code = code_digest(f"lowrank_bench.methods.{entry.name}", *facts)
        about = (entry.name, method.model_dump(mode="json"), config.target, method.label(), code)
        yield Spec(*about, method.nested, method.needs)


def _checkpoints(config: Config, model_name: str, task_name: str) -> list[Checkpoint]:
    model, task = config.model[model_name], config.task[task_name]
    published = config.checkpoints == "published"
    text = {
        "columns": task.columns,
        "label": task.label,
        "labels": task.labels,
        "max_length": config.evaluation.max_length,
    }
    if published:
        network = _published(model, model_name, task_name, config)
        recipe: dict[str, Any] = {"published_labels": model.published[task_name].labels}
        recipe["after"] = _recipe(config, model, task)
    else:
        network = _network(model, model_name, config)
        recipe = _recipe(config, model, task)
    code = code_digest(*(PUBLISHED if published else TRAINING))
    splits = tuple(split.split for split in task.evaluation)
    if config.evaluation.train_rows:
        splits += (rows_of(task.train.split, config.evaluation.train_rows),)
    data = task_data(config, task_name)
    return [
        Checkpoint(model_name, task_name, seed, network, data, text, recipe, splits, code)
        for seed in config.seeds
    ]


def _recipe(config: Config, model: Model, task: Task) -> dict[str, Any]:
    merged = config.recipe.model_dump()
    for patch in (model.recipe, task.recipe):
        merged |= {key: value for key, value in patch.model_dump().items() if value is not None}
    return merged | {"train_split": task.train.split, "train_limit": task.train.limit}


def _network(model: Model, name: str, config: Config) -> Source:
    spec = model.source.model_dump()
    return _source("network", name, spec, {"sha256": model.sha256}, config)


def _published(model: Model, name: str, task: str, config: Config) -> Source:
    entry = model.published[task]
    spec = {"kind": "hub", "repo": entry.repo, "revision": entry.revision, "config": None}
    return _source("network", f"{name}-{task}", spec, {}, config)


def task_data(config: Config, name: str) -> Source:
    """Return the source of a task's splits, with what is known of the official files."""
    task = config.task[name]
    splits = [task.train, *task.evaluation]
    checks = {
        "splits": {s.split: {"rows": s.rows, "sha256": s.sha256} for s in splits},
        "train": task.train.split,
        "columns": [*task.columns, task.label],
        "unofficial": config.hub.unofficial,
    }
    return _source("data", name, task.source.model_dump(), checks, config)


def _source(kind: str, name: str, spec: dict[str, Any], checks: dict, config: Config) -> Source:
    if spec["kind"] == "hub":
        if config.hub.revision:
            spec = spec | {"revision": config.hub.revision}
        return Source(kind, name, spec, checks)
    return Source(kind, name, spec, checks, code_digest(*SYNTHETIC[kind]))


def _batches(
    config: Config, points: Points, size: int
) -> Iterator[tuple[str, tuple[Checkpoint, ...]]]:
    """Yield the checkpoints of each network, `size` tasks at a time, with a name."""
    tasks = list(config.task)
    for model in config.model:
        for start in range(0, len(tasks), size):
            some = tasks[start : start + size]
            yield _name(model, some), tuple(p for task in some for p in points[model, task])


def _method_batches(
    specs: Mapping[str, tuple[Spec, ...]], size: int
) -> Iterator[tuple[str, tuple[Spec, ...]]]:
    """Yield the specs of `size` methods at a time, with a name."""
    names = list(specs)
    for start in range(0, len(names), size):
        some = names[start : start + size]
        yield _span(some), tuple(spec for name in some for spec in specs[name])


def _name(model: str, tasks: Sequence[str]) -> str:
    return f"{model}.{_span(tasks)}"


def _span(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]}-to-{names[-1]}"


def _job(stage: str, name: str, **parts: Any) -> Job:
    """Make a job whose name ends in a digest of all that it must produce."""
    draft = Job(stage, name, **parts)
    keys = [source.key for source in draft.sources]
    keys += draft.decompositions()
    keys += [cell.key for cell in draft.cells()]
    return Job(stage, f"{name}.{digest(sorted(keys), 8)}", **parts)
