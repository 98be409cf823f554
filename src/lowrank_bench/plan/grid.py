"""From a configuration to checkpoints, cells and jobs. Imports no torch: the Snakefile uses it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lowrank_bench.config.schema import Config
from lowrank_bench.errors import LowRankError
from lowrank_bench.methods import register_folders
from lowrank_bench.plan.batching import (
    Checkpoints,
    checkpoint_batches,
    fetch_batches,
    method_batches,
    rates_of,
)
from lowrank_bench.plan.cells import DENSE, Cell, Checkpoint, Job
from lowrank_bench.plan.checkpoints import checkpoints_of
from lowrank_bench.plan.code import evaluation_code, finetune_code
from lowrank_bench.plan.specs import Specs, dense_spec, specs_by_target
from lowrank_bench.store.digest import digest

MOST_CELLS = 100_000  # a plan of them takes ten seconds and a gigabyte
LONGEST_NAME = 180  # bytes


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
    register_folders(config.plugins)
    checkpoints = {
        (network, name): checkpoints_of(config, network, name)
        for network, model in config.model.items()
        for name, task in config.task.items()
        if model.modality == task.network_modality
    }
    specs = specs_by_target(config)
    _check_bounded(config, checkpoints, specs)
    fetched = {
        source.key: source
        for seeds in checkpoints.values()
        for checkpoint in seeds
        for source in checkpoint.fetched()
    }
    downloads = [
        _job("download", name, sources=sources) for name, sources in fetch_batches(fetched.values())
    ]
    size = config.jobs.tasks_per_checkpoint_job
    trained = [
        _job("checkpoint", name, checkpoints=batch, **_dense(config, batch[0]))
        for name, batch in checkpoint_batches(config, checkpoints, size)
    ]
    factorized, evaluated = _compressed(config, checkpoints, specs)
    retrained = _retrained(config, checkpoints, specs)
    stages = (downloads, trained, factorized, evaluated, retrained)
    return Plan(*(tuple(jobs) for jobs in stages))


def _check_bounded(config: Config, checkpoints: Checkpoints, specs: Mapping[str, Specs]) -> None:
    """Refuse an experiment whose plan would take minutes and gigabytes."""
    count = sum(
        len(batch) * sum(map(len, specs[config.target_of(config.model[name])].values()))
        for (name, _), batch in checkpoints.items()
    )
    most_rates = max(len(rates_of(config, name)) for name in config.method)
    count *= most_rates * len(config.finetune_epochs)
    if count > MOST_CELLS:
        raise LowRankError(
            f"the experiment {config.name} has {count:,} cells, at most {MOST_CELLS:,} are "
            "planned at once; shorten seeds, compressions, finetune_epochs or method.<name>.grid, "
            "or split it"
        )


def _compressed(
    config: Config, checkpoints: Checkpoints, specs: Mapping[str, Specs]
) -> tuple[list[Job], list[Job]]:
    """Return the jobs that factorize, and those that evaluate the results."""
    factorized, evaluated = [], []
    for name, batch in checkpoint_batches(config, checkpoints, config.jobs.tasks_per_job):
        target = config.target_of(config.model[batch[0].model])
        for methods, chunk, rates in method_batches(config, specs[target]):
            title = f"{name}.{methods}"
            parts: dict[str, Any] = {"checkpoints": batch, "specs": chunk, "compressions": rates}
            factorized.append(_job("factorize", title, **parts))
            if 0 in config.finetune_epochs:
                code = _evaluation_code(config, batch[0])
                evaluated.append(_job("evaluate", title, **parts, code=code))
    return factorized, evaluated


def _retrained(config: Config, checkpoints: Checkpoints, specs: Mapping[str, Specs]) -> list[Job]:
    """Return the jobs that train after compression, and those that train the dense network too."""
    jobs = []
    for name, batch in checkpoint_batches(config, checkpoints, 1):
        epochs = _epochs(config, batch[0])
        if not epochs:
            continue
        dense, iterative = _dense(config, batch[0]), config.protocol == "iterative"
        code = finetune_code(dense.pop("code"), batch[0].modality, iterative)
        entries = specs[config.target_of(config.model[batch[0].model])]
        methods = {
            method: {
                "compressions": rates_of(config, method),
                "protocol": config.protocol,
                "specs": entry,
            }
            for method, entry in entries.items()
        }
        both: dict[str, Any] = {"checkpoints": batch, "finetune_epochs": epochs, "code": code}
        jobs += [
            _job("finetune", f"{name}.{title}", **both, **parts)
            for title, parts in {DENSE: dense, **methods}.items()
        ]
    return jobs


def _epochs(config: Config, checkpoint: Checkpoint) -> tuple[int, ...]:
    """Return the numbers of epochs for which networks are trained after compression."""
    whole = checkpoint.training_recipe.get("epochs", 0)  # none for networks as they are
    asked = (whole if number == "all" else number for number in config.finetune_epochs)
    return tuple(dict.fromkeys(number for number in asked if number))


def _dense(config: Config, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the parts of a job on networks as they were trained."""
    spec = dense_spec(config, config.target_of(config.model[checkpoint.model]))
    code = _evaluation_code(config, checkpoint)
    return {"specs": (spec,), "compressions": (0.0,), "code": code}


def _evaluation_code(config: Config, checkpoint: Checkpoint) -> str:
    evaluation = config.evaluation
    length = None if checkpoint.modality == "image" else evaluation.max_length
    target = config.target_of(config.model[checkpoint.model])
    return evaluation_code(checkpoint.modality, target, length, evaluation.precision)


def _job(stage: str, name: str, **parts: Any) -> Job:
    """Return a job whose name ends in a digest of everything it must produce."""
    draft = Job(stage, name, **parts)
    keys = [source.key for source in draft.sources]
    keys += draft.decompositions()
    keys += [cell.key for cell in draft.cells()]
    # A file name has up to 255 bytes, and the ending and Snakemake's suffixes come after.
    short = name.encode()[:LONGEST_NAME].decode(errors="ignore")
    return Job(stage, f"{short}.{digest(sorted(keys), 8)}", **parts)
