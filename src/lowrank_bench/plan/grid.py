"""From a configuration to checkpoints, cells and jobs. Imports no torch: the Snakefile uses it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from lowrank_bench.config.schema import Config, Model, Task
from lowrank_bench.errors import LowRankError
from lowrank_bench.methods import make_method, method_class, methods_for
from lowrank_bench.plan.batching import Points, checkpoint_batches, fetch_batches, method_batches
from lowrank_bench.plan.cells import (
    DENSE,
    Cell,
    Checkpoint,
    Job,
    Source,
    Spec,
    held_out_of,
    rows_of,
    split_and_range,
)
from lowrank_bench.store.digest import canonical, code_digest, digest

Specs = dict[str, tuple[Spec, ...]]

# The sources behind checkpoints, predictions and training after compression, by modality.
TRAINING = {
    "text": (
        "lowrank_bench.inputs.text.pretrained",
        "lowrank_bench.inputs.text.finetune",
        "lowrank_bench.inputs.text.encode",
    ),
    "image": (
        "lowrank_bench.inputs.vision.build",
        "lowrank_bench.inputs.vision.training",
        "lowrank_bench.inputs.vision.images",
    ),
}
PUBLISHED = {
    "text": ("lowrank_bench.inputs.labels", "lowrank_bench.inputs.text.encode"),
    "image": ("lowrank_bench.inputs.vision.published", "lowrank_bench.inputs.vision.images"),
}
PREDICTION = {
    "text": ("lowrank_bench.inputs.text.predict",),
    "image": ("lowrank_bench.inputs.vision.predict",),
}
COMPRESSED = {
    "embedding": (
        "lowrank_bench.layers.embedding",
        "lowrank_bench.linalg.certificates.certificate",
    ),
    "conv": ("lowrank_bench.network.count",),
    "linear": ("lowrank_bench.network.count",),
}
RETRAINING = (
    "lowrank_bench.evaluate.retrain",
    "lowrank_bench.checkpoint.training",
    "lowrank_bench.network.restore",
)
# The sources on which facts beside the weights rest.
FACT_SOURCES = {
    "frequency": ("lowrank_bench.inputs.text.vocabulary",),
    "counts": ("lowrank_bench.inputs.text.counts", "lowrank_bench.checkpoint.training"),
    "fisher": ("lowrank_bench.factorize.fisher", "lowrank_bench.checkpoint.training"),
    "inputs": ("lowrank_bench.checkpoint.training",),
    "labels": ("lowrank_bench.checkpoint.training",),
}
GENERATED = {
    ("network", "synthetic"): ("lowrank_bench.synthetic.networks",),
    ("network", "vision"): ("lowrank_bench.inputs.vision.build",),
    ("data", "synthetic"): ("lowrank_bench.synthetic.tasks",),
    ("data", "digits"): ("lowrank_bench.inputs.vision.digits",),
    ("data", "folder"): (),
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
    points = {
        (m, t): _checkpoints(config, m, t)
        for m, model in config.model.items()
        for t, task in config.task.items()
        if model.modality == task.modality
    }
    specs = {target: _specs(config, target) for target in _targets(config)}
    _check_all_run(config, specs)
    sources = {s.key: s for group in points.values() for p in group for s in p.fetched()}
    download = [
        _job("download", name, sources=some) for name, some in fetch_batches(sources.values())
    ]
    trained = [
        _job("checkpoint", name, checkpoints=batch, **_dense(config, batch))
        for name, batch in checkpoint_batches(config, points, config.jobs.tasks_per_checkpoint_job)
    ]
    factorized, evaluated = [], []
    for name, batch in checkpoint_batches(config, points, config.jobs.tasks_per_job):
        target = config.target_of(config.model[batch[0].model])
        for methods, found in method_batches(specs[target], config.jobs.methods_per_job):
            title = f"{name}.{methods}"
            parts: dict[str, Any] = {"checkpoints": batch, "specs": found}
            parts["compressions"] = tuple(config.compressions)
            factorized.append(_job("factorize", title, **parts))
            if 0 in config.finetune_epochs:
                code = evaluation_digest(config, batch[0])
                evaluated.append(_job("evaluate", title, **parts, code=code))
    stages = (download, trained, factorized, evaluated, _retrained(config, points, specs))
    return Plan(*(tuple(jobs) for jobs in stages))


def _retrained(config: Config, points: Points, specs: Mapping[str, Specs]) -> list[Job]:
    """Return the jobs that train after compression, the dense network as a reference too."""
    jobs = []
    for name, batch in checkpoint_batches(config, points, 1):
        epochs = _epochs(config, batch[0])
        if not epochs:
            continue
        dense = _dense(config, batch)
        own = code_digest(*RETRAINING, *TRAINING[batch[0].modality])
        code = digest([dense.pop("code"), own])
        rates = {"compressions": tuple(config.compressions), "protocol": config.protocol}
        found = specs[config.target_of(config.model[batch[0].model])]
        methods = {method: {**rates, "specs": some} for method, some in found.items()}
        both: dict[str, Any] = {"checkpoints": batch, "finetune_epochs": epochs, "code": code}
        jobs += [
            _job("finetune", f"{name}.{title}", **both, **parts)
            for title, parts in {DENSE: dense, **methods}.items()
        ]
    return jobs


def _epochs(config: Config, point: Checkpoint) -> tuple[int, ...]:
    """Return how many epochs networks are trained after compression, those that are."""
    whole = point.recipe.get("after", point.recipe)["epochs"]
    asked = (whole if number == "all" else number for number in config.finetune_epochs)
    return tuple(dict.fromkeys(number for number in asked if number))


def _targets(config: Config) -> set[str]:
    return {config.target_of(model) for model in config.model.values()}


def _dense(config: Config, batch: Sequence[Checkpoint]) -> dict[str, Any]:
    """Return the parts of a job on networks as they were trained."""
    spec = dense_spec(config, config.target_of(config.model[batch[0].model]))
    code = evaluation_digest(config, batch[0])
    return {"specs": (spec,), "compressions": (0.0,), "code": code}


def _check_all_run(config: Config, specs: Mapping[str, Specs]) -> None:
    """Refuse methods that compress no target of the experiment."""
    idle = [name for name in config.method if not any(name in found for found in specs.values())]
    if idle:
        known = ", ".join(method_class(config.method[idle[0]].name).targets)
        raise LowRankError(
            f"method.{idle[0]} compresses {known}, the experiment {', '.join(sorted(specs))}; "
            "take it out, or add a network with its target"
        )


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


def dense_spec(config: Config, target: str) -> Spec:
    """Return the pseudo-method of the network as trained."""
    return Spec(DENSE, {}, target, DENSE, "", settings=_settings(config, target, ()))


def evaluation_digest(config: Config, point: Checkpoint) -> str:
    """Digest of what decides predictions beside the network: sources and row length."""
    target = config.target_of(config.model[point.model])
    code = code_digest(*PREDICTION[point.modality], *COMPRESSED[target])
    settings = [config.evaluation.max_length] if point.modality == "text" else []
    if config.evaluation.precision != "fp32":
        settings.append(config.evaluation.precision)
    return digest([code, *settings] if settings else code)


def _settings(config: Config, target: str, needs: Sequence[str]) -> dict[str, Any]:
    """Return what the experiment says to methods for whole networks."""
    if target == "embedding":
        return {}
    return {"budget": config.budget, "calibration": config.calibration.model_dump()}


def _specs(config: Config, target: str) -> Specs:
    """Return the specs of the methods that can compress a target, by the entry's name."""
    found = {
        name: tuple(_entry_specs(config, name, target))
        for name, entry in config.method.items()
        if target in method_class(entry.name).targets
    }
    if not found:
        raise LowRankError(
            f"none of the methods {', '.join(config.method)} compresses the target {target!r}; "
            f"add one that does: {', '.join(methods_for(target))}"
        )
    _check_distinct(found)
    return found


def _entry_specs(config: Config, name: str, target: str) -> Iterator[Spec]:
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
        about = (entry.name, method.model_dump(mode="json"), target, method.label(), code)
        nested = method.nested and target == "embedding"
        yield Spec(*about, nested, method.needs, _settings(config, target, method.needs))


def _checkpoints(config: Config, model_name: str, task_name: str) -> list[Checkpoint]:
    model, task = config.model[model_name], config.task[task_name]
    published = config.checkpoints == "published"
    inputs: dict[str, Any] = {
        "columns": task.columns,
        "label": task.label,
        "labels": task.labels,
    }
    if task.image:
        inputs["image"] = task.image.model_dump()
    else:
        inputs["max_length"] = config.evaluation.max_length
    if published:
        network = _published(model, model_name, task_name, config)
        entry = model.published[task_name]
        recipe: dict[str, Any] = {"published_labels": entry.labels}
        if task.modality == "image":
            recipe["published"] = entry.model_dump()
        recipe["after"] = _recipe(config, model, task)
    else:
        network = _network(model, model_name, config)
        recipe = _recipe(config, model, task)
    code = code_digest(*(PUBLISHED if published else TRAINING)[task.modality])
    splits = tuple(split.split for split in task.evaluation)
    if config.evaluation.train_rows:
        splits += (rows_of(task.train.split, config.evaluation.train_rows),)
    data = task_data(config, task_name)
    about = (model_name, task_name, network, data, inputs, recipe, splits, code)
    return [Checkpoint(*about[:2], seed, *about[2:], task.modality) for seed in config.seeds]


def _recipe(config: Config, model: Model, task: Task) -> dict[str, Any]:
    merged = config.recipe.model_dump()
    for patch in (model.recipe, task.recipe):
        merged |= {key: value for key, value in patch.model_dump().items() if value is not None}
    kept = {key: value for key, value in merged.items() if value is not None}
    if kept.get("patience"):
        kept["held_out_split"] = _held_out(task)
    return kept | {"train_split": _train_split(task), "train_limit": task.train.limit}


def _held_out(task: Task) -> str:
    """Return the rows that decide when a training stops."""
    if not task.train.holdout:
        raise LowRankError(
            f"recipe.patience needs rows that are not trained on, and {task.title} holds none out; "
            "set train.holdout of the task, e.g. task.NAME.train.holdout=1000"
        )
    return held_out_of(task.train.split, task.train.holdout)


def _train_split(task: Task) -> str:
    """Return the name of the rows to train on, without those held out."""
    train = task.train
    return rows_of(train.split, -train.holdout) if train.holdout else train.split


def _network(model: Model, name: str, config: Config) -> Source:
    spec = model.source.model_dump()
    return _source("network", name, spec, {"sha256": model.sha256}, config)


def _published(model: Model, name: str, task: str, config: Config) -> Source:
    entry = model.published[task]
    spec = {"kind": "hub", "repo": entry.repo, "revision": entry.revision, "config": None}
    spec |= {"file": entry.file} if entry.file else {}
    return _source("network", f"{name}-{task}", spec, {"sha256": entry.sha256}, config)


def task_data(config: Config, name: str) -> Source:
    """Return the source of a task's splits, with what is known of the official files."""
    task = config.task[name]
    splits = [task.train, *task.evaluation]
    official = ("rows", "sha256", "encoding")
    checks = {
        "splits": {
            split_and_range(s.split)[0]: s.model_dump(include=set(official))
            for s in reversed(splits)
        },
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
    return Source(kind, name, spec, checks, code_digest(*GENERATED[kind, spec["kind"]]))


def _job(stage: str, name: str, **parts: Any) -> Job:
    """Make a job whose name ends in a digest of all that it must produce."""
    draft = Job(stage, name, **parts)
    keys = [source.key for source in draft.sources]
    keys += draft.decompositions()
    keys += [cell.key for cell in draft.cells()]
    return Job(stage, f"{name}.{digest(sorted(keys), 8)}", **parts)
