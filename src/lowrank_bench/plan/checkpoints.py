"""The checkpoints of an experiment, and the sources of their networks and data."""

from typing import Any

from lowrank_bench.config.entries import EvaluationSplit, TrainSplit
from lowrank_bench.config.schema import Config, Model, Task
from lowrank_bench.errors import LowRankError
from lowrank_bench.inputs.splits import held_out_of, rows_of, split_and_range
from lowrank_bench.plan.cells import Checkpoint, Source
from lowrank_bench.plan.code import checkpoint_code, encoding_code, source_code

OFFICIAL = {"rows", "sha256", "encoding"}  # facts about the official file of a split


def checkpoints_of(config: Config, model_name: str, task_name: str) -> list[Checkpoint]:
    """Return the checkpoints of a network on a task, one for each seed.

    A task of similarity has one, with the seed 0: the network as it is, whatever the seeds.

    Raises
    ------
    LowRankError
        When the recipe needs held-out rows and the task holds none out.
    """
    model, task = config.model[model_name], config.task[task_name]
    as_it_is = task.modality == "similarity"
    published = config.checkpoints == "published" and not as_it_is
    if as_it_is:
        network, recipe = _network(model, model_name, config), _rows(task)
    elif published:
        network = _published(model, model_name, task_name, config)
        recipe = _published_recipe(model, task_name) | {"after": _recipe(config, model, task)}
    else:
        network = _network(model, model_name, config)
        recipe = _recipe(config, model, task)
    return [
        Checkpoint(
            model=model_name,
            task=task_name,
            seed=seed,
            network=network,
            data=task_data(config, task_name),
            inputs=_inputs(config, model, task),
            recipe=recipe,
            evaluation=_evaluated(config, task),
            code=checkpoint_code(task.modality, published, "held_out_split" in recipe),
            modality=task.modality,
            encoding=encoding_code(task.modality),
        )
        for seed in (config.seeds if not as_it_is else [0])
    ]


def _inputs(config: Config, model: Model, task: Task) -> dict[str, Any]:
    """Return how the rows of a task become features and labels."""
    inputs: dict[str, Any] = {"columns": task.columns, "label": task.label, "labels": task.labels}
    if task.image:
        return inputs | {"image": task.image.model_dump()}
    if task.modality == "similarity":
        inputs["pooling"] = task.pooling or "mean"
        inputs |= {"prefix": model.prefix} if model.prefix else {}
    return inputs | {"max_length": config.evaluation.max_length}


def _evaluated(config: Config, task: Task) -> tuple[str, ...]:
    """Return the names of the splits, or parts of splits, to predict on."""
    splits = tuple(split.split for split in task.evaluation)
    if config.evaluation.train_rows:
        splits += (rows_of(task.train.split, config.evaluation.train_rows),)
    return splits


def _published_recipe(model: Model, task_name: str) -> dict[str, Any]:
    entry = model.published[task_name]
    recipe: dict[str, Any] = {"published_labels": entry.labels}
    if model.modality == "image":
        recipe["published"] = entry.model_dump()
    return recipe


def _recipe(config: Config, model: Model, task: Task) -> dict[str, Any]:
    """Return the settings of training: the experiment's, with those of network and task on top."""
    merged = config.recipe.model_dump()
    for patch in (model.recipe, task.recipe):
        merged |= {key: value for key, value in patch.model_dump().items() if value is not None}
    kept = {key: value for key, value in merged.items() if value is not None}
    if kept.get("patience"):
        kept["held_out_split"] = _held_out(task)
    return kept | _rows(task)


def _rows(task: Task) -> dict[str, Any]:
    """Return which rows are trained on, and counted by methods that look at text."""
    return {"train_split": _train_split(task), "train_limit": task.train.limit}


def _held_out(task: Task) -> str:
    """Return the rows that decide when training stops."""
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
    return _source("network", name, model.source.model_dump(), {"sha256": model.sha256}, config)


def _published(model: Model, name: str, task: str, config: Config) -> Source:
    entry = model.published[task]
    spec = {"kind": "hub", "repo": entry.repo, "revision": entry.revision, "config": None}
    spec |= {"file": entry.file} if entry.file else {}
    return _source("network", f"{name}-{task}", spec, {"sha256": entry.sha256}, config)


def task_data(config: Config, name: str) -> Source:
    """Return the source of a task's splits, with facts about the official files."""
    task = config.task[name]
    splits: list[TrainSplit | EvaluationSplit] = [task.train, *task.evaluation]
    checks = {
        "splits": {
            split_and_range(split.split)[0]: split.model_dump(include=OFFICIAL)
            for split in reversed(splits)
        },
        "train": task.train.split,
        "columns": [*task.columns, *([task.label] if task.label else [])],
        "unofficial": config.hub.unofficial,
    }
    return _source("data", name, task.source.model_dump(), checks, config)


def _source(
    kind: str, name: str, spec: dict[str, Any], checks: dict[str, Any], config: Config
) -> Source:
    if spec["kind"] == "hub" and config.hub.revision:
        spec = spec | {"revision": config.hub.revision}
    return Source(kind, name, spec, checks, source_code(kind, spec["kind"]))
