"""`lowrank evaluate`: the metrics of one network, compressed or not, on one task."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import yaml

from lowrank_bench.errors import LowRankError

SIMILARITY = "similarity"


def evaluate_network(options: Namespace) -> None:
    """Predict on a task with a network of a folder and print the metrics, in points."""
    from lowrank_bench.config import load_config

    if not options.model.is_dir():
        raise LowRankError(
            f"{options.model} is not a folder; name one that `lowrank compress` wrote"
        )
    words = [f"task=[{options.task}]", *_any_model(options.conf, options.task)]
    _print_scores(options, load_config(options.conf, [*words, *options.override]))


def _any_model(conf: Path, task: str) -> list[str]:
    """Return an override that chooses any network for the task; a configuration must have one."""
    wanted = _modality(conf / "task" / f"{task}.yaml")
    names = [file.stem for file in sorted(conf.glob("model/*.yaml")) if _modality(file) == wanted]
    return [f"model=[{names[0]}]"] if names else []


def _modality(file: Path) -> str:
    """Return the modality of a network, or of the networks that a task runs on."""
    if not file.is_file():  # composing the configuration will report it
        return "text"
    modality = str((yaml.safe_load(file.read_text()) or {}).get("modality", "text"))
    return "text" if modality == SIMILARITY else modality


def _print_scores(options: Namespace, config: Any) -> None:
    from tqdm import tqdm

    from lowrank_bench.device import best_device
    from lowrank_bench.inputs.modality import modality_of
    from lowrank_bench.inputs.rows import read_split
    from lowrank_bench.inputs.splits import split_and_range
    from lowrank_bench.plan.checkpoints import task_data
    from lowrank_bench.stages.download import DataStep
    from lowrank_bench.stages.runner import Runner
    from lowrank_bench.store.store import Store

    task, runner = config.task[options.task], Runner(Store(options.store))
    if options.prefix and task.modality != SIMILARITY:
        raise LowRankError(f"--prefix is for tasks of similarity, which {options.task} is not")
    # What is wrong with the network is said before anything is downloaded for it.
    model = _load(options.model, options.trust_remote_code)
    order, dense = None, None
    if task.modality == SIMILARITY:
        model, dense = _encoders(model, task, options)
    else:
        _check_classifies(model, options)
    processor = _processor(model, task, options.model, options.trust_remote_code)
    if task.modality != SIMILARITY:
        order = _output_order(model.config, task.labels, options.model)
    data = runner.ensure(DataStep(task_data(config, options.task)))
    missing = data.manifest["missing"]
    device = best_device(config.evaluation.device)
    model = model.to(device)
    inputs = {"columns": task.columns, "label": task.label, "labels": task.labels}
    inputs |= {"max_length": options.max_length, "pooling": task.pooling or "mean"}
    inputs["prefix"] = options.prefix
    modality = modality_of(task.modality)
    for entry in tqdm(task.evaluation, desc="evaluate", unit="split", leave=False):
        if (whole := split_and_range(entry.split)[0]) in missing:
            print(f"{options.task} {entry.split}: skipped: {missing[whole]}")
            continue
        encoded = modality.encode(read_split(data.folder, entry.split), processor, inputs)
        settings = (config.evaluation.max_tokens, device)
        if dense is not None:
            encoded = modality.with_dense(dense.to(device), processor, encoded, *settings)
        logits = modality.predict(model, processor, encoded, *settings, order)
        for metric, said in _values(entry.metrics, logits, encoded.labels).items():
            print(f"{options.task} {entry.split} {metric} {said} (n={len(encoded)})")


def _values(metrics: list[Any], logits: Any, labels: Any) -> dict[str, str]:
    """Return what is printed of each metric: its value in points, or why it has none."""
    import numpy as np

    from lowrank_bench.score.metrics import METRICS, compute, predict_labels

    said = {}
    for metric in metrics:
        guess = predict_labels(logits, METRICS[metric].kind)
        if METRICS[metric].kind == "agreement" and np.isnan(guess).all():
            said[metric] = "skipped: name the dense network with --dense"
        else:
            said[metric] = f"{100 * compute([metric], guess, labels)[metric]:.2f}"
    return said


def _encoders(model: Any, task: Any, options: Namespace) -> tuple[Any, Any]:
    """Return a network as an encoder of sentences, and the dense one if it is named."""
    from lowrank_bench.cli.load import load_network
    from lowrank_bench.inputs.similarity.encoder import encoder_of

    if set(task.evaluation[0].metrics) == {"cosine_to_dense"} and not options.dense:
        raise LowRankError(
            f"{options.task} compares vectors with those of the dense network alone; name it with "
            "--dense"
        )
    dense = None
    if options.dense:
        loaded, _ = load_network(options.dense, trust=options.trust_remote_code)
        dense = encoder_of(loaded.float(), options.dense)
    return encoder_of(model.float(), str(options.model)), dense


def _check_classifies(model: Any, options: Namespace) -> None:
    """Refuse a network that has no outputs for the labels of a task, such as a sentence encoder."""
    kind = type(model)
    if kind.__module__.startswith("transformers.") and "Classification" not in kind.__name__:
        raise LowRankError(
            f"{options.model} is a {kind.__name__}, which has no classifier for {options.task}; "
            "evaluate it as an encoder of sentences (--task stsb_zero_shot), or a network that was "
            "fine-tuned on the task, as in an experiment such as minilm_glue"
        )


def _processor(model: Any, task: Any, folder: Path, trust: bool) -> Any:
    """Return the tokenizer of a folder, or how the task's images are prepared."""
    takes = {"input_ids": "text", "pixel_values": "image"}.get(model.main_input_name)
    if takes != task.network_modality:
        raise LowRankError(
            f"{folder} is a {type(model).__name__}, which takes {takes or 'other inputs'}; the "
            f"task gives {task.network_modality}"
        )
    if task.modality == "image":
        from lowrank_bench.inputs.vision.settings import ImageSettings

        settings = ImageSettings(**task.image.model_dump())
        channels = getattr(model.config, "num_channels", settings.channels)
        if channels != settings.channels:
            raise LowRankError(
                f"{folder} takes images of {channels} channels, the task's have "
                f"{settings.channels}; add --override task.<name>.image.channels={channels} with "
                "as many numbers in image.mean and image.std"
            )
        return settings
    from lowrank_bench.inputs.checked import load_tokenizer

    return load_tokenizer(folder, trust)


def _load(folder: Path, trust: bool) -> Any:
    """Return the network of a folder that `lowrank compress` or transformers wrote."""
    from lowrank_bench.artifact import MANIFEST, load
    from lowrank_bench.cli.load import load_network

    if (folder / MANIFEST).is_file():
        return load(folder)
    return load_network(str(folder), trust=trust)[0]


def _output_order(config: Any, labels: list[str], folder: Path) -> list[int]:
    """Match a network's outputs to the task's labels by name; LABEL_0, … count as in order."""
    from lowrank_bench.inputs.labels import output_order

    generic = all(str(name).startswith("LABEL_") for name in config.id2label.values())
    return output_order(config, labels, labels if generic else [], str(folder))
